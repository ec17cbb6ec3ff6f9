// Package service owns the Python process that does the work: it starts it, connects to it, and holds
// the pipe whose closing tells it to cancel, undo and exit.
//
// The process has a session of its own, so that a Ctrl-C at the terminal reaches Packer only, and
// inherits none of this process's standard streams: Packer waits for the end of those when it ends a
// plugin, and whoever still holds them would hold up Packer.
package service

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// A cold start from a slow disk on an emulated CPU takes some seconds; this is for a service that
	// hangs.
	startDeadline = 2 * time.Minute
	// How long output is still read once the service is dead but a child of it holds the pipes.
	outputDelay = 500 * time.Millisecond
	// What a Unix socket's path may be long, on the strictest system.
	maxSocketPath = 100
)

// Service is one running Python side. Its methods may be called from any goroutine.
type Service struct {
	version string // what the Python side must be of

	ready chan struct{} // closed once conn or startError is set
	ended chan struct{} // closed once the process is gone, or could not be started
	conn  *grpc.ClientConn

	startError error
	exitError  error // valid once ended is closed
	errors     tail

	locate func(arguments ...string) ([]string, error)

	mutex     sync.Mutex
	lifeline  io.Closer
	closed    bool
	successor *Service
}

// Start starts the service, which must be of this version, and returns at once. locate gives the command
// line that runs the Python side with these arguments; it may take its time.
func Start(version string, locate func(arguments ...string) ([]string, error)) *Service {
	s := &Service{
		version: version, ready: make(chan struct{}), ended: make(chan struct{}), locate: locate,
	}
	go s.run()
	return s
}

// Successor starts the service again, once, after it has died. It ends with this one's Close.
func (s *Service) Successor() *Service {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.successor == nil {
		s.successor = Start(s.version, s.locate)
	}
	return s.successor
}

// Connect waits until the service listens. Where the context ends before, the error wraps that one's.
func (s *Service) Connect(ctx context.Context) (grpc.ClientConnInterface, error) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil, fmt.Errorf("the plugin's service has not started in time: %w", ctx.Err())
	}
	if s.startError != nil {
		return nil, s.startError
	}
	return s.conn, nil
}

// Ended is closed when the process is gone.
func (s *Service) Ended() <-chan struct{} { return s.ended }

// Exit says how the process ended and, where it ended by itself, what it last wrote to stderr. Only
// after Ended.
func (s *Service) Exit() (how string, lastWords string) {
	how = "exit status 0"
	if s.exitError != nil {
		how = s.exitError.Error()
	}
	var exit *exec.ExitError
	if errors.As(s.exitError, &exit) && !exit.Exited() {
		// A signal came from outside: what was written before is no more than the usual log.
		return how, ""
	}
	return how, s.errors.String()
}

// Close closes the lifeline: the service cancels what runs, undoes it and exits, which may take a
// while and needs this process no longer.
func (s *Service) Close() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.successor != nil {
		s.successor.Close()
	}
	s.letGo()
}

// letGo closes the lifeline; the mutex is held.
func (s *Service) letGo() {
	s.closed = true
	if s.lifeline != nil {
		s.lifeline.Close()
		s.lifeline = nil
	}
}

func (s *Service) run() {
	defer close(s.ended)
	began := time.Now()
	argv, err := s.locate("serve")
	if err != nil {
		s.fail(err)
		return
	}
	token := make([]byte, 32)
	rand.Read(token)
	// Only now, since locate may unpack for a while: Packer ends its plugins with SIGKILL, and until
	// there is a service nobody else would remove this.
	directory, err := socketDirectory()
	if err != nil {
		s.fail(err)
		return
	}
	// The service removes it at its regular end.
	defer os.RemoveAll(directory)
	// Packer may end this process as soon as it hears of a failure.
	failed := func(err error) {
		os.RemoveAll(directory)
		s.fail(err)
	}
	socket := filepath.Join(directory, "service.sock")
	argv = append(argv, "--socket", socket)
	command := exec.Command(argv[0], argv[1:]...)
	command.SysProcAttr = ownSession()
	command.WaitDelay = outputDelay
	listening := make(chan greeting, 1)
	stdout := &lines{handle: waitForGreeting(listening)}
	stderr := &lines{handle: s.errors.add}
	command.Stdout, command.Stderr = stdout, stderr

	stdin, lifeline, err := os.Pipe()
	if err != nil {
		failed(fmt.Errorf("the plugin's service was not started: %w", err))
		return
	}
	command.Stdin = stdin
	err = command.Start()
	stdin.Close()
	if err != nil {
		lifeline.Close()
		failed(startFailure(argv[0], err))
		return
	}
	log.Printf("[DEBUG] service: process %d: %s", command.Process.Pid, strings.Join(argv, " "))
	s.hold(lifeline)
	if _, err := lifeline.WriteString(hex.EncodeToString(token) + "\n"); err != nil {
		log.Printf("[WARN] service: it does not read its token: %s", err)
	}

	exited := make(chan error, 1)
	go func() {
		err := command.Wait()
		stdout.flush()
		stderr.flush()
		exited <- err
	}()
	select {
	case told := <-listening:
		log.Printf("[DEBUG] service: ready after %s", time.Since(began).Round(time.Millisecond))
		s.conn, err = s.dial(argv[0], told, hex.EncodeToString(token))
		if err != nil {
			s.fail(err)
			s.Close()
		} else {
			close(s.ready)
		}
		s.exitError = <-exited
	case s.exitError = <-exited:
		failed(s.earlyEnd(argv))
	case <-time.After(startDeadline):
		s.fail(fmt.Errorf("the plugin's service (%s) did not listen within %s%s",
			argv[0], startDeadline, indented(s.errors.String())))
		s.Close()
		command.Process.Kill()
		s.exitError = <-exited
	}
	log.Printf("[DEBUG] service: it ended: %v", s.exitError)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.letGo()
}

func (s *Service) fail(err error) {
	s.startError = err
	close(s.ready)
}

// hold keeps the lifeline open until Close, which may have been called already.
func (s *Service) hold(lifeline io.Closer) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closed {
		lifeline.Close()
		return
	}
	s.lifeline = lifeline
}

func (s *Service) earlyEnd(argv []string) error {
	how, lastWords := s.Exit()
	if strings.Contains(lastWords, "No module named "+pythonModule) {
		return missing(argv[0], s.version)
	}
	return fmt.Errorf("the plugin's service (%s) ended before it could work: %s%s",
		argv[0], how, indented(lastWords))
}

func startFailure(executable string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%s may not be executed (is its filesystem mounted noexec?): %w",
			executable, err)
	}
	return fmt.Errorf("the plugin's service was not started: %w", err)
}

func indented(text string) string {
	if text == "" {
		return ""
	}
	return ":\n    " + strings.ReplaceAll(text, "\n", "\n    ")
}

// greeting is what the service says once it listens: "ready VERSION ADDRESS".
type greeting struct{ version, address string }

// waitForGreeting passes on the first greeting, and logs all other lines.
func waitForGreeting(heard chan<- greeting) func(string) {
	var once sync.Once
	return func(line string) {
		if words := strings.SplitN(line, " ", 3); len(words) == 3 && words[0] == "ready" {
			once.Do(func() { heard <- greeting{version: words[1], address: words[2]} })
			return
		}
		log.Printf("service: %s", line)
	}
}

// socketDirectory makes a directory that only this user can enter, short enough for a socket in it.
func socketDirectory() (string, error) {
	const pattern = "packer-plugin-osc-chroot-*"
	parent := os.TempDir()
	if runtime.GOOS != "windows" && len(parent)+len(pattern)+len("1234567890/service.sock") > maxSocketPath {
		parent = "/tmp"
	}
	// MkdirTemp gives mode 0700.
	directory, err := os.MkdirTemp(parent, pattern)
	if err != nil {
		return "", fmt.Errorf("no directory for the plugin's socket: %w", err)
	}
	return directory, nil
}

func (s *Service) dial(executable string, told greeting, token string) (*grpc.ClientConn, error) {
	if told.version != s.version {
		return nil, fmt.Errorf("%s has version %s of the package %s, and this plugin is version %s: install "+
			"the wheel of that version there, or set %s to an interpreter that has it",
			executable, told.version, pythonModule, s.version, EnvPython)
	}
	conn, err := grpc.NewClient(told.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithPerRPCCredentials(bearer(token)),
		// The host's proxy settings are not meant for a socket of our own.
		grpc.WithNoProxy())
	if err != nil {
		return nil, fmt.Errorf("the plugin's service cannot be reached: %w", err)
	}
	return conn, nil
}

// bearer adds the token to each call.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity is false: the socket is in a directory that only this user can enter, or, on
// Windows, on the loopback interface.
func (b bearer) RequireTransportSecurity() bool { return false }
