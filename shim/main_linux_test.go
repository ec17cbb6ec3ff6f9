package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/packer-plugin-sdk/plugin"
	packrpc "github.com/hashicorp/packer-plugin-sdk/rpc"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/service"
)

// This test binary is also the plugin.
const envMain = "SHIM_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// pluginCommand starts the plugin with a Python side that is a shell script.
func pluginCommand(t *testing.T, script string, arguments ...string) *exec.Cmd {
	t.Helper()
	python := filepath.Join(t.TempDir(), "python")
	if err := os.WriteFile(python, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(os.Args[0], arguments...)
	command.Env = append(os.Environ(), envMain+"=1", service.EnvPython+"="+python, "TMPDIR="+t.TempDir())
	return command
}

const refuse = "echo 'the Python side was started' >&2; exit 9\n"

func TestDescribe(t *testing.T) {
	for _, arguments := range [][]string{{"describe"}, {"describe", "--protobuf"}} {
		output, err := pluginCommand(t, refuse, arguments...).Output()
		if err != nil {
			t.Fatal(err)
		}
		var description plugin.SetDescription
		if err := json.Unmarshal(output, &description); err != nil {
			t.Fatal(err)
		}
		if description.APIVersion != "x5.0" || description.ProtocolVersion != "v2" || description.Version == "" {
			t.Errorf("%+v", description)
		}
		if fmt.Sprint(description.Builders) != "["+plugin.DEFAULT_NAME+"]" {
			t.Errorf("%v", description.Builders)
		}
		if fmt.Sprint(description.Datasources) != "[identity omi]" {
			t.Errorf("%v", description.Datasources)
		}
	}
}

func TestHelp(t *testing.T) {
	for arguments, want := range map[string]struct {
		status int
		output string
	}{
		"--help":          {0, "packer plugins install "},
		"-h":              {0, "  completion "},
		"help":            {0, "exit status:"},
		"":                {2, "usage: packer-plugin-osc-chroot COMMAND ..."},
		"--version":       {0, "packer-plugin-osc-chroot "},
		"version":         {0, "packer-plugin-osc-chroot "},
		"lokalcloud run":  {2, `packer-plugin-osc-chroot: there is no command "lokalcloud"`},
		"--jelp":          {2, `there is no command "--jelp"`},
		"help lokalcloud": {2, `there is no command "lokalcloud"`},
		"help localcloud": {9, "-m packer_plugin_osc_chroot localcloud --help"},
	} {
		command := pluginCommand(t, `echo "$@"; exit 9`, strings.Fields(arguments)...)
		output, err := command.CombinedOutput()
		if command.ProcessState.ExitCode() != want.status {
			t.Errorf("%q: %v", arguments, err)
		}
		if !strings.Contains(string(output), want.output) {
			t.Errorf("%q: %s", arguments, output)
		}
	}
}

func TestStartedByHand(t *testing.T) {
	output, err := pluginCommand(t, refuse, "start", "builder", plugin.DEFAULT_NAME).CombinedOutput()
	if err == nil || !strings.Contains(string(output), "Packer will execute these") {
		t.Errorf("%v: %s", err, output)
	}
}

func TestCommandsWithoutThePackage(t *testing.T) {
	// A probe ends with 93 where the package is not found.
	output, err := pluginCommand(t, `[ "$1" != -c ] || exit 93`, "localcloud").CombinedOutput()
	if err == nil || !strings.Contains(string(output), "has no package packer_plugin_osc_chroot: install the wheel") {
		t.Errorf("%v: %s", err, output)
	}
}

func TestOtherCommandsBecomeThePythonSide(t *testing.T) {
	script := `echo "$$ $@"; cat; exit 5`
	command := pluginCommand(t, script, "localcloud", "run", "--", "a b")
	command.Stdin = strings.NewReader("input")
	var output bytes.Buffer
	command.Stdout = &output
	command.Run()
	want := fmt.Sprintf("%d -m packer_plugin_osc_chroot localcloud run -- a b\ninput", command.Process.Pid)
	if output.String() != want || command.ProcessState.ExitCode() != 5 {
		t.Errorf("%d %q, want %q", command.ProcessState.ExitCode(), output.String(), want)
	}
}

// A Python side that tells what happens to it in a file beside the socket's directory.
const watching = `
socket=$(eval echo \${$#})
read token
echo "started $#" >>"$TMPDIR/events"
cat >/dev/null
echo "lifeline closed" >>"$TMPDIR/events"
rm -r "$(dirname "$socket")"
`

// serve starts the plugin as Packer does, up to its handshake.
func serve(t *testing.T) (command *exec.Cmd, address, events string) {
	t.Helper()
	command = pluginCommand(t, watching, "start", "builder", plugin.DEFAULT_NAME, "--protobuf")
	command.Env = append(command.Env, plugin.MagicCookieKey+"="+plugin.MagicCookieValue)
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		command.Process.Kill()
		command.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(strings.TrimSpace(line), "|")
	if len(parts) != 4 || parts[2] != "unix" {
		t.Fatalf("%q", line)
	}
	for _, variable := range command.Env {
		if directory, found := strings.CutPrefix(variable, "TMPDIR="); found {
			events = filepath.Join(directory, "events")
		}
	}
	return command, parts[3], events
}

func waitForEvent(t *testing.T, events, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if content, _ := os.ReadFile(events); strings.Contains(string(content), want) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%q did not happen", want)
}

// However the plugin ends, the service sees its lifeline close. It is started before Packer connects.
func TestEveryEndClosesTheLifeline(t *testing.T) {
	for name, end := range map[string]func(command *exec.Cmd, conn net.Conn) error{
		"Packer closes the connection": func(_ *exec.Cmd, conn net.Conn) error { return conn.Close() },
		"SIGTERM":                      func(c *exec.Cmd, _ net.Conn) error { return c.Process.Signal(syscall.SIGTERM) },
		"SIGKILL":                      func(c *exec.Cmd, _ net.Conn) error { return c.Process.Signal(syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			command, address, events := serve(t)
			waitForEvent(t, events, "started")
			// A Ctrl-C before Packer is connected reaches the plugin, too.
			if err := command.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("unix", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			client, err := packrpc.NewClient(conn)
			if err != nil {
				t.Fatal(err)
			}
			client.UseProto = true
			if spec := client.Builder().ConfigSpec(); spec["omi_name"] == nil {
				t.Errorf("%v", spec)
			}
			if err := end(command, conn); err != nil {
				t.Fatal(err)
			}
			waitForEvent(t, events, "lifeline closed")
			command.Wait()
		})
	}
}
