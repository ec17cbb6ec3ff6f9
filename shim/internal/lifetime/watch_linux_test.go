package lifetime

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This test binary plays all roles: "wrapper" starts "packer", which starts "plugin". Each prints its
// pid; the plugin then waits for the end of the others and says so.
const envRole = "SHIM_TEST_ROLE"

// Set, the plugin has a kernel without pidfd_open.
const envNoPidfd = "SHIM_TEST_NO_PIDFD"

func TestMain(m *testing.M) {
	switch role := os.Getenv(envRole); role {
	case "":
		os.Exit(m.Run())
	case "plugin":
		if os.Getenv(envNoPidfd) != "" {
			if err := forbidPidfd(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
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

// forbidPidfd makes pidfd_open fail in this process as a kernel without it does.
func forbidPidfd() error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the syscall's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_PIDFD_OPEN, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// Both calls have to come from one thread; the second passes the first on to the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if _, err := unix.PidfdOpen(os.Getpid(), 0); !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("pidfd_open still gives %v", err)
	}
	return nil
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
	testDeathOfParentAndWrapper(t)
}

func TestDeathOfParentAndWrapperWithoutPidfd(t *testing.T) {
	t.Setenv(envNoPidfd, "1")
	testDeathOfParentAndWrapper(t)
}

func testDeathOfParentAndWrapper(t *testing.T) {
	t.Helper()
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
	for _, without := range []string{"", "1"} {
		t.Setenv(envNoPidfd, without)
		testAnotherGrandparent(t)
	}
}

func testAnotherGrandparent(t *testing.T) {
	t.Helper()
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
	case <-time.After(2 * pollPause):
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
	watch(pid, func() int { return pid }, func() { close(ended) })
	<-ended
	ended = make(chan struct{})
	watch(os.Getpid(), func() int { return 1 }, func() { close(ended) })
	<-ended
}
