package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// This test binary is its own fake service: a child process that behaves as the variable says.
const envFake = "SHIM_TEST_FAKE_SERVICE"

const testVersion = "1.2.3"

func TestMain(m *testing.M) {
	if behaviour := os.Getenv(envFake); behaviour != "" {
		os.Exit(fakeService(behaviour))
	}
	os.Exit(m.Run())
}

func fakeService(behaviour string) int {
	switch behaviour {
	case "early":
		fmt.Fprintln(os.Stderr, "Traceback\nImportError: no grpc here")
		return 3
	case "nomodule":
		fmt.Fprintln(os.Stderr, "/usr/bin/python3: No module named packer_plugin_osc_chroot")
		return 1
	}
	stdin := bufio.NewReader(os.Stdin)
	token, err := stdin.ReadString('\n')
	if err != nil {
		return 4
	}
	socket := os.Args[len(os.Args)-1]
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return 5
	}
	server := grpc.NewServer()
	contract.RegisterArtifactServer(server, stateOfProcess{token: strings.TrimSpace(token)})
	go server.Serve(listener)
	fmt.Println("a line before")
	version := testVersion
	if behaviour == "other" {
		version = "0.1.2"
	}
	fmt.Println("ready")
	fmt.Println("ready", version, "unix:"+socket)
	io.Copy(io.Discard, stdin)
	if behaviour == "slow" {
		time.Sleep(300 * time.Millisecond)
	}
	os.RemoveAll(filepath.Dir(socket))
	return 0
}

// stateOfProcess answers callers that know the token: its pid and session, and the mode and path of the
// socket's directory.
type stateOfProcess struct {
	contract.UnimplementedArtifactServer
	token string
}

func (s stateOfProcess) State(ctx context.Context, _ *contract.StateRequest) (*contract.StateResponse, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 || values[0] != "Bearer "+s.token || len(s.token) != 64 {
		return nil, status.Errorf(codes.Unauthenticated, "not with %v", values)
	}
	socket := os.Args[len(os.Args)-1]
	info, err := os.Stat(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	session, _, _ := syscall.Syscall(syscall.SYS_GETSID, 0, 0, 0)
	return &contract.StateResponse{ValueJson: fmt.Appendf(nil, "%d %d %o %s", os.Getpid(), session,
		info.Mode().Perm(), filepath.Dir(socket))}, nil
}

func startFake(t *testing.T, behaviour string) *Service {
	t.Helper()
	t.Setenv(envFake, behaviour)
	t.Setenv("TMPDIR", t.TempDir())
	s := Start(testVersion, func(arguments ...string) ([]string, error) {
		return append([]string{os.Args[0]}, arguments...), nil
	})
	t.Cleanup(func() {
		s.Close()
		<-s.Ended()
		leftOver, err := os.ReadDir(os.Getenv("TMPDIR"))
		if err != nil || len(leftOver) > 0 {
			t.Errorf("left over: %v %v", leftOver, err)
		}
	})
	return s
}

func stateOf(t *testing.T, s *Service) (pid, session, mode int, directory string) {
	t.Helper()
	conn, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	response, err := contract.NewArtifactClient(conn).State(t.Context(), &contract.StateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Sscanf(string(response.ValueJson), "%d %d %o %s", &pid, &session, &mode, &directory)
	if err != nil {
		t.Fatal(err)
	}
	return pid, session, mode, directory
}

func TestService(t *testing.T) {
	s := startFake(t, "good")
	pid, session, mode, directory := stateOf(t, s)
	if pid == os.Getpid() || session != pid {
		t.Errorf("process %d is in session %d", pid, session)
	}
	if mode != 0o700 || filepath.Dir(directory) != os.Getenv("TMPDIR") {
		t.Errorf("%s has mode %o", directory, mode)
	}
	for fd, want := range map[int]string{0: "pipe:", 1: "pipe:", 2: "pipe:"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
		mine, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil || !strings.HasPrefix(link, want) || link == mine {
			t.Errorf("file descriptor %d is %s (%v)", fd, link, err)
		}
	}
	s.Close()
	<-s.Ended()
	if how, _ := s.Exit(); how != "exit status 0" {
		t.Error(how)
	}
}

func TestClosingDoesNotWait(t *testing.T) {
	s := startFake(t, "slow")
	stateOf(t, s)
	began := time.Now()
	s.Close()
	s.Close()
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("Close took %s", took)
	}
}

// A SIGKILL while the bundle is unpacked must leave nothing behind.
func TestLocatedFirst(t *testing.T) {
	// Its path is short enough for a socket only because the test's name is.
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	s := Start(testVersion, func(...string) ([]string, error) {
		if made, err := os.ReadDir(temporary); err != nil || len(made) > 0 {
			t.Errorf("%v %v", made, err)
		}
		return nil, errors.New("never mind")
	})
	<-s.Ended()
}

func TestClosingBeforeItStarted(t *testing.T) {
	s := startFake(t, "good")
	s.Close()
	<-s.Ended()
}

func TestDeath(t *testing.T) {
	s := startFake(t, "good")
	pid, _, _, directory := stateOf(t, s)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Ended()
	if how, lastWords := s.Exit(); how != "signal: killed" || lastWords != "" {
		t.Errorf("%q %q", how, lastWords)
	}
	if _, err := os.Stat(directory); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", directory, err)
	}
}

func TestSuccessor(t *testing.T) {
	s := startFake(t, "good")
	first, _, _, _ := stateOf(t, s)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Ended()
	again := s.Successor()
	second, _, _, _ := stateOf(t, again)
	if second == first || s.Successor() != again {
		t.Errorf("%d after %d", second, first)
	}
	s.Close()
	<-again.Ended()
	if how, _ := again.Exit(); how != "exit status 0" {
		t.Error(how)
	}
}

func TestEarlyEnd(t *testing.T) {
	_, err := startFake(t, "early").Connect(t.Context())
	if err == nil || !strings.HasSuffix(err.Error(), "exit status 3:\n    Traceback\n    ImportError: no grpc here") {
		t.Errorf("%v", err)
	}
}

func TestMissingPackage(t *testing.T) {
	_, err := startFake(t, "nomodule").Connect(t.Context())
	if err == nil || !strings.Contains(err.Error(), "has no package packer_plugin_osc_chroot: install the wheel of version 1.2.3 there") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}

// lookAtEnd looks into TMPDIR when the log says that the service has ended.
type lookAtEnd struct{ left chan int }

func (l lookAtEnd) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "it ended") {
		entries, _ := os.ReadDir(os.TempDir())
		l.left <- len(entries)
	}
	return len(line), nil
}

// Packer ends this process as soon as it hears of the failure: nothing may be left for later.
func TestFailedStart(t *testing.T) {
	look := lookAtEnd{left: make(chan int, 1)}
	log.SetOutput(look)
	defer log.SetOutput(os.Stderr)
	if _, err := startFake(t, "early").Connect(t.Context()); err == nil {
		t.Fatal("it started")
	}
	if left := <-look.left; left > 0 {
		t.Errorf("%d left in TMPDIR", left)
	}
}

func TestAnotherVersion(t *testing.T) {
	_, err := startFake(t, "other").Connect(t.Context())
	want := "has version 0.1.2 of the package packer_plugin_osc_chroot, and this plugin is version 1.2.3: "
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v", err)
	}
}

func TestNotThere(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for want, locate := range map[string]func(...string) ([]string, error){
		"no such file": func(...string) ([]string, error) { return []string{"/nonexistent/python"}, nil },
		"noexec":       func(...string) ([]string, error) { return []string{plain}, nil },
		"nowhere":      func(...string) ([]string, error) { return nil, errors.New("nowhere") },
	} {
		s := Start(testVersion, locate)
		if _, err := s.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
		<-s.Ended()
		s.Close()
	}
}

func TestConnectCanBeCancelled(t *testing.T) {
	release := make(chan struct{})
	s := Start(testVersion, func(...string) ([]string, error) {
		<-release
		return nil, errors.New("never mind")
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Connect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Connect(ctx); err == nil || !strings.HasPrefix(err.Error(), "the plugin's service has not") {
		t.Errorf("a deadline that passes while it is unpacked: %v", err)
	}
	close(release)
	<-s.Ended()
}

func TestLocate(t *testing.T) {
	t.Setenv(EnvPython, "/nonexistent/python")
	if _, err := Locate("serve"); err == nil || !strings.Contains(err.Error(), EnvPython+` names "/nonexistent/python"`) {
		t.Errorf("%v", err)
	}
	t.Setenv(EnvPython, "")
	t.Setenv("PATH", t.TempDir())
	if _, err := Locate("serve"); err == nil || !strings.Contains(err.Error(), "no python3 on PATH") {
		t.Errorf("%v", err)
	}
	python := filepath.Join(os.Getenv("PATH"), "python3")
	if err := os.WriteFile(python, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	argv, err := Locate("serve", "--socket", "x")
	if err != nil || strings.Join(argv, " ") != python+" -m packer_plugin_osc_chroot serve --socket x" {
		t.Errorf("%v %v", argv, err)
	}
}

func TestLines(t *testing.T) {
	var got []string
	l := &lines{handle: func(line string) { got = append(got, line) }}
	for _, text := range []string{"a", "b\r\nc\n\nd", strings.Repeat("x", maxLine)} {
		if count, err := l.Write([]byte(text)); count != len(text) || err != nil {
			t.Errorf("%d %v", count, err)
		}
	}
	l.flush()
	if len(got) != 4 || got[0] != "ab" || got[1] != "c" || got[2] != "" || len(got[3]) != maxLine+1 {
		t.Errorf("%.100q", got)
	}
}
