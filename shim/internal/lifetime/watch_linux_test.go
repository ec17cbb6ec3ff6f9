package lifetime

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// This test binary plays all roles: "wrapper" starts "packer", which starts "plugin". Each prints its
// pid; the plugin then waits for the end of the others and says so.
const envRole = "SHIM_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(envRole); role {
	case "":
		os.Exit(m.Run())
	case "plugin":
		gone := make(chan struct{})
		WatchParent(func() { close(gone) })
		fmt.Println(role, os.Getpid())
		<-gone
		fmt.Println("gone", 0)
	default:
		next := map[string]string{"wrapper": "packer", "packer": "plugin"}[role]
		fmt.Println(role, os.Getpid())
		command := exec.Command(os.Getenv("SHIM_TEST_" + strings.ToUpper(next)))
		command.Env = append(os.Environ(), envRole+"="+next)
		command.Stdout = os.Stdout
		if err := command.Run(); err != nil {
			os.Exit(1)
		}
	}
}

// family starts the three and gives their pids, and a channel that ends when the plugin saw its end.
func family(t *testing.T, packer string) (map[string]int, <-chan bool) {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), envRole+"=wrapper", "SHIM_TEST_PACKER="+packer, "SHIM_TEST_PLUGIN="+os.Args[0])
	output, input, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stdout = input
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	input.Close()
	pids := map[string]int{}
	lines := bufio.NewScanner(output)
	for len(pids) < 3 && lines.Scan() {
		var role string
		var pid int
		if _, err := fmt.Sscanf(lines.Text(), "%s %d", &role, &pid); err != nil {
			t.Fatal(err)
		}
		pids[role] = pid
	}
	gone := make(chan bool, 1)
	go func() { gone <- lines.Scan() && lines.Text() == "gone 0" }()
	t.Cleanup(func() {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		command.Wait()
		output.Close()
	})
	return pids, gone
}

func TestDeathOfParentAndWrapper(t *testing.T) {
	for _, victim := range []string{"packer", "wrapper"} {
		pids, gone := family(t, os.Args[0])
		if err := syscall.Kill(pids[victim], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {
		case seen := <-gone:
			if !seen {
				t.Errorf("%s: the plugin ended without noticing", victim)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("the death of %s was not noticed", victim)
		}
	}
}

// A grandparent that is not packer, such as a shell, may end: packer goes on.
func TestAnotherGrandparentDoesNotMatter(t *testing.T) {
	copied := t.TempDir() + "/packer"
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, content, 0o755); err != nil {
		t.Fatal(err)
	}
	pids, gone := family(t, copied)
	if err := syscall.Kill(pids["wrapper"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
		t.Error("the end of another grandparent ended the plugin")
	case <-time.After(300 * time.Millisecond):
	}
	if err := syscall.Kill(pids["packer"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if !<-gone {
		t.Error("the plugin ended without noticing")
	}
}

func TestParentThatIsGoneAlready(t *testing.T) {
	command := exec.Command("true")
	if err := command.Run(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	pid := command.Process.Pid
	if err := watch(pid, func() int { return pid }, func() { close(ended) }); err != nil {
		t.Fatal(err)
	}
	<-ended
	ended = make(chan struct{})
	if err := watch(os.Getpid(), func() int { return 1 }, func() { close(ended) }); err != nil {
		t.Fatal(err)
	}
	<-ended
}
