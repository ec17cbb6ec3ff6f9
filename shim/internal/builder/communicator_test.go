package builder

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// provisioned runs the test's provisioner with a communicator that went through Packer and back.
func provisioned(t *testing.T, fake *fakePython, provisioner func(packersdk.Communicator)) {
	t.Helper()
	fake.run = func(stream runStream) error {
		if err := stream.Send(provision(1, nil)); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		return stream.Send(finished())
	}
	_, err := start(t, fake, context.Background(), newRecorder(),
		func(_ context.Context, _ string, _ packersdk.Ui, comm packersdk.Communicator, _ any) error {
			provisioner(comm)
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStart(t *testing.T) {
	input := make([]byte, 3<<20)
	for i := range input {
		input[i] = byte(rand.IntN(256))
	}
	fake := newFakePython(t)
	provisioned(t, fake, func(comm packersdk.Communicator) {
		var stdout, stderr bytes.Buffer
		cat := &packersdk.RemoteCmd{Command: "cat", Stdin: bytes.NewReader(input), Stdout: &stdout}
		if err := comm.Start(context.Background(), cat); err != nil {
			t.Error(err)
			return
		}
		if cat.Wait() != 0 || !bytes.Equal(stdout.Bytes(), input) {
			t.Errorf("cat: status %d, %d bytes", cat.ExitStatus(), stdout.Len())
		}
		stdout.Reset()
		both := &packersdk.RemoteCmd{Command: "both", Stdout: &stdout, Stderr: &stderr}
		if err := comm.Start(context.Background(), both); err != nil || both.Wait() != 0 {
			t.Errorf("both: %v", err)
		}
		if stdout.String() != "out\n" || stderr.String() != "err\n" {
			t.Errorf("both: %q %q", stdout.String(), stderr.String())
		}
		exit := &packersdk.RemoteCmd{Command: "exit 143"}
		if err := comm.Start(context.Background(), exit); err != nil || exit.Wait() != 143 {
			t.Errorf("exit: %v", err)
		}
		refused := &packersdk.RemoteCmd{Command: "refuse"}
		if err := comm.Start(context.Background(), refused); err == nil || !strings.Contains(err.Error(), "/bin/sh: there is none") {
			t.Errorf("refuse: %v", err)
		}
		stderr.Reset()
		broken := &packersdk.RemoteCmd{Command: "break", Stderr: &stderr}
		if err := comm.Start(context.Background(), broken); err != nil {
			t.Errorf("break: %v", err)
		}
		if broken.Wait() != packersdk.CmdDisconnect || stderr.String() != "the command's output was lost\n" {
			t.Errorf("break: %d %q", broken.ExitStatus(), stderr.String())
		}
	})
}

func TestCancelledHookEndsItsCommand(t *testing.T) {
	fake := newFakePython(t)
	ctx, cancel := context.WithCancel(context.Background())
	comm := &communicator{ctx: ctx, client: contract.NewCommunicatorClient(fake.conn), service: fake, id: "c"}
	var stderr bytes.Buffer
	command := &packersdk.RemoteCmd{Command: "hang", Stderr: &stderr}
	if err := comm.Start(context.Background(), command); err != nil {
		t.Fatal(err)
	}
	cancel()
	ended := make(chan int, 1)
	go func() { ended <- command.Wait() }()
	select {
	case status := <-ended:
		if status != packersdk.CmdDisconnect || stderr.Len() > 0 {
			t.Errorf("%d %q", status, stderr.String())
		}
	case <-time.After(10 * time.Second):
		t.Error("the command goes on")
	}
	if err := comm.Upload("x", strings.NewReader("x"), nil); !errors.Is(err, errCancelled) {
		t.Errorf("%v", err)
	}
}

func TestFiles(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, content, 0o750); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(source)
	if err != nil {
		t.Fatal(err)
	}
	fake := newFakePython(t)
	provisioned(t, fake, func(comm packersdk.Communicator) {
		if err := comm.Upload("/file", bytes.NewReader(content), &info); err != nil {
			t.Error(err)
		}
		if err := comm.Upload("/empty", strings.NewReader(""), nil); err != nil {
			t.Error(err)
		}
		if err := comm.Upload("/../x", bytes.NewReader(content), nil); err == nil || !strings.Contains(err.Error(), "leads out") {
			t.Errorf("%v", err)
		}
		var back, nothing bytes.Buffer
		if err := comm.Download("/file", &back); err != nil || !bytes.Equal(back.Bytes(), content) {
			t.Errorf("%v, %d bytes", err, back.Len())
		}
		if err := comm.Download("/empty", &nothing); err != nil || nothing.Len() != 0 {
			t.Errorf("%v", err)
		}
		if err := comm.Download("/missing", io.Discard); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%v", err)
		}
	})
	if fake.modes[0] != 0o750 || fake.modes[1] != 0 {
		t.Errorf("%o", fake.modes)
	}
}

func TestBrokenSourceIsNotTheEndOfTheFile(t *testing.T) {
	fake := newFakePython(t)
	comm := &communicator{
		ctx: context.Background(), client: contract.NewCommunicatorClient(fake.conn), service: fake, id: "c",
	}
	broken := io.MultiReader(strings.NewReader("half"), errorReader{})
	if err := comm.Upload("/half", broken, nil); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(fake.root, "half")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a file was taken for a whole one: %v", err)
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("disk on fire") }

func TestDirectories(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	fake := newFakePython(t)
	provisioned(t, fake, func(comm packersdk.Communicator) {
		for _, err := range []error{
			comm.UploadDir("/srv", "tree/", []string{"*.o"}),
			comm.UploadDir("/srv/", "tree", nil),
			comm.DownloadDir("/etc/", "out", nil),
			comm.DownloadDir("/etc", "out/", nil),
		} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	for i, want := range []struct {
		local, remote string
		contents      bool
	}{
		{"tree", "/srv", true}, {"tree", "/srv/", false}, {"out", "/etc/", true}, {"out", "/etc", false},
	} {
		got := fake.transfers[i]
		if got.Local != filepath.Join(here, want.local) || got.Remote != want.remote || got.ContentsOnly != want.contents || got.CommunicatorId != "c" {
			t.Errorf("%d: %v", i, got)
		}
	}
	if fake.transfers[0].Exclude[0] != "*.o" {
		t.Errorf("%v", fake.transfers[0])
	}
}

// A refusal arrives while nobody reads the pipe, and must not be waited for in vain.
func TestRefusedUploadEndsAtOnce(t *testing.T) {
	fake := newFakePython(t)
	comm := &communicator{
		ctx: context.Background(), client: contract.NewCommunicatorClient(fake.conn), service: fake, id: "c",
	}
	source, endless := io.Pipe()
	defer endless.Close()
	go func() {
		for {
			if _, err := endless.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}()
	ended := make(chan error, 1)
	go func() { ended <- comm.Upload("/../x", source, nil) }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "leads out") {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the upload goes on")
	}
	source.Close()
}

func TestDownloadIntoNothingEnds(t *testing.T) {
	fake := newFakePython(t)
	if err := os.WriteFile(filepath.Join(fake.root, "file"), make([]byte, 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	comm := &communicator{
		ctx: context.Background(), client: contract.NewCommunicatorClient(fake.conn), service: fake, id: "c",
	}
	if err := comm.Download("/file", fullDisk{}); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("%v", err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestCancelledDownloadDoesNotWaitForAServiceThatHangs(t *testing.T) {
	fake := newFakePython(t)
	defer close(fake.released)
	if err := os.WriteFile(filepath.Join(fake.root, "hang"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	comm := &communicator{ctx: ctx, client: contract.NewCommunicatorClient(fake.conn), service: fake, id: "c"}
	ended := make(chan error, 1)
	go func() { ended <- comm.Download("/hang", io.Discard) }()
	time.Sleep(200 * time.Millisecond)
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, errCancelled) {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the download goes on")
	}
}
