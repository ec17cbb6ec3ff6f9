package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	packrpc "github.com/hashicorp/packer-plugin-sdk/rpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/components"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// fakePython is the contract's other side in this process: a real gRPC server on a real socket, whose
// Run is given by the test and whose communicator is a directory of the host.
type fakePython struct {
	contract.UnimplementedBuilderServer
	contract.UnimplementedCommunicatorServer
	contract.UnimplementedArtifactServer

	prepare func(*contract.PrepareRequest) *contract.PrepareResponse
	run     func(grpc.BidiStreamingServer[contract.RunRequest, contract.RunEvent]) error
	state   func(*contract.StateRequest) []byte

	started   func(*contract.RunStart)
	root      string
	mutex     sync.Mutex
	cancelled chan struct{}
	released  chan struct{} // what hangs goes on
	cancels   []string
	transfers []*contract.TransferDirRequest
	modes     []uint32
	destroyed []string

	server *grpc.Server
	conn   *grpc.ClientConn
	ended  chan struct{}
}

func newFakePython(t *testing.T) *fakePython {
	t.Helper()
	directory := t.TempDir()
	fake := &fakePython{
		root:      filepath.Join(directory, "root"),
		cancelled: make(chan struct{}),
		released:  make(chan struct{}),
		ended:     make(chan struct{}),
		server:    grpc.NewServer(),
	}
	if err := os.Mkdir(fake.root, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(directory, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	contract.RegisterBuilderServer(fake.server, fake)
	contract.RegisterCommunicatorServer(fake.server, fake)
	contract.RegisterArtifactServer(fake.server, fake)
	go fake.server.Serve(listener)
	fake.conn, err = grpc.NewClient("unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fake.conn.Close()
		fake.server.Stop()
	})
	return fake
}

func (f *fakePython) Connect(context.Context) (grpc.ClientConnInterface, error) { return f.conn, nil }
func (f *fakePython) Ended() <-chan struct{}                                    { return f.ended }
func (f *fakePython) Exit() (string, string)                                    { return "exit status 3", "Boom: last words" }

// die ends the service as a crash does.
func (f *fakePython) die() {
	f.server.Stop()
	close(f.ended)
}

func (f *fakePython) Prepare(_ context.Context, request *contract.PrepareRequest) (*contract.PrepareResponse, error) {
	return f.prepare(request), nil
}

func (f *fakePython) Run(stream grpc.BidiStreamingServer[contract.RunRequest, contract.RunEvent]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetStart().GetBuilderId() == "" {
		return status.Error(codes.InvalidArgument, "the first message is no start")
	}
	if f.started != nil {
		f.started(first.GetStart())
	}
	return f.run(stream)
}

func (f *fakePython) Cancel(_ context.Context, request *contract.CancelRequest) (*contract.CancelResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.cancels = append(f.cancels, request.BuilderId)
	if len(f.cancels) == 1 {
		close(f.cancelled)
	}
	return &contract.CancelResponse{}, nil
}

// Start knows: "cat" (stdin to stdout), "both" (a line each), "exit N", "hang", "refuse", "break".
func (f *fakePython) Start(stream grpc.BidiStreamingServer[contract.StartRequest, contract.StartEvent]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	command := first.GetCommand().Command
	if command == "refuse" {
		return status.Error(codes.FailedPrecondition, "/bin/sh: there is none in the chroot")
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	exit := int32(0)
	switch {
	case command == "cat":
		for {
			request, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			stdout := &contract.StartEvent_Stdout{Stdout: request.GetStdin()}
			if err := stream.Send(&contract.StartEvent{Event: stdout}); err != nil {
				return err
			}
		}
	case command == "both":
		stream.Send(&contract.StartEvent{Event: &contract.StartEvent_Stdout{Stdout: []byte("out\n")}})
		stream.Send(&contract.StartEvent{Event: &contract.StartEvent_Stderr{Stderr: []byte("err\n")}})
	case command == "hang":
		<-stream.Context().Done()
		return stream.Context().Err()
	case command == "break":
		return status.Error(codes.FailedPrecondition, "the command's output was lost")
	default:
		fmt.Sscanf(command, "exit %d", &exit)
	}
	return stream.Send(&contract.StartEvent{Event: &contract.StartEvent_ExitStatus{ExitStatus: exit}})
}

func (f *fakePython) Upload(stream grpc.ClientStreamingServer[contract.UploadRequest, contract.UploadResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	header := first.GetHeader()
	if strings.Contains(header.Remote, "..") {
		return status.Error(codes.FailedPrecondition, header.Remote+": it leads out of the chroot")
	}
	f.mutex.Lock()
	f.modes = append(f.modes, header.Mode)
	f.mutex.Unlock()
	content, err := os.ReadFile(header.Pipe)
	if err != nil {
		return err
	}
	if end, err := stream.Recv(); err != nil || end.GetEnd() == nil {
		return status.Error(codes.FailedPrecondition, "the content broke off")
	}
	if err := os.WriteFile(filepath.Join(f.root, header.Remote), content, 0o644); err != nil {
		return err
	}
	return stream.SendAndClose(&contract.UploadResponse{})
}

func (f *fakePython) Download(_ context.Context, request *contract.DownloadRequest) (*contract.DownloadResponse, error) {
	content, err := os.ReadFile(filepath.Join(f.root, request.Remote))
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, request.Remote+": no such file in the chroot")
	}
	pipe, err := os.OpenFile(request.Pipe, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer pipe.Close()
	if request.Remote == "/hang" {
		// As where the file's disk does not answer: it hears of no cancel.
		<-f.released
	}
	if _, err := pipe.Write(content); err != nil {
		return nil, err
	}
	return &contract.DownloadResponse{}, nil
}

func (f *fakePython) transfer(request *contract.TransferDirRequest) (*contract.TransferDirResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.transfers = append(f.transfers, request)
	return &contract.TransferDirResponse{}, nil
}

func (f *fakePython) UploadDir(_ context.Context, request *contract.TransferDirRequest) (*contract.TransferDirResponse, error) {
	return f.transfer(request)
}

func (f *fakePython) DownloadDir(_ context.Context, request *contract.TransferDirRequest) (*contract.TransferDirResponse, error) {
	return f.transfer(request)
}

func (f *fakePython) State(_ context.Context, request *contract.StateRequest) (*contract.StateResponse, error) {
	if f.state != nil {
		return &contract.StateResponse{ValueJson: f.state(request)}, nil
	}
	if request.Name == "known" {
		return &contract.StateResponse{ValueJson: []byte(
			`{"text": "a", "number": 12, "half": 0.5, "list": [1, "b", null, true]}`)}, nil
	}
	return &contract.StateResponse{}, nil
}

func (f *fakePython) Destroy(_ context.Context, request *contract.DestroyRequest) (*contract.DestroyResponse, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.destroyed = append(f.destroyed, request.ArtifactId)
	if len(f.destroyed) > 1 {
		return nil, status.Error(codes.FailedPrecondition, "ami-1 is in use")
	}
	return &contract.DestroyResponse{}, nil
}

// overPacker gives the builder as Packer has it: behind the SDK's own client and server.
func overPacker(t *testing.T, useProto bool, b packersdk.Builder) packersdk.Builder {
	t.Helper()
	here, there := net.Pipe()
	// Each side's constructor waits for the other.
	served := make(chan error, 1)
	go func() {
		server, err := packrpc.NewServer(there)
		if err == nil {
			server.UseProto = useProto
			err = server.RegisterBuilder(b)
		}
		served <- err
		if err == nil {
			server.Serve()
		}
	}()
	client, err := packrpc.NewClient(here)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	client.UseProto = useProto
	t.Cleanup(func() {
		client.Close()
		here.Close()
		there.Close()
	})
	return client.Builder()
}

func testComponent(t *testing.T) components.Component {
	t.Helper()
	set, err := components.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, component := range set.Components {
		if component.Name == "osc-chroot" {
			return component
		}
	}
	t.Fatal("no component osc-chroot")
	return components.Component{}
}

// recorder is a Ui that keeps what it is told.
type recorder struct {
	packersdk.Ui
	mutex sync.Mutex
	lines []string
	asked chan struct{}
}

func newRecorder() *recorder { return &recorder{asked: make(chan struct{}, 1)} }

func (r *recorder) add(kind, text string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.lines = append(r.lines, kind+" "+text)
}

func (r *recorder) String() string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return strings.Join(r.lines, "|")
}

func (r *recorder) Say(text string)     { r.add("say", text) }
func (r *recorder) Message(text string) { r.add("message", text) }
func (r *recorder) Error(text string)   { r.add("error", text) }
func (r *recorder) Machine(category string, args ...string) {
	r.add("machine", category+" "+strings.Join(args, ","))
}

func (r *recorder) Ask(query string) (string, error) {
	if query == "refused?" {
		return "", errors.New("no terminal")
	}
	return "answer to " + query, nil
}

// hookFunc is a hook of Packer's.
type hookFunc func(ctx context.Context, name string, ui packersdk.Ui, comm packersdk.Communicator, data any) error

func (h hookFunc) Run(ctx context.Context, name string, ui packersdk.Ui, comm packersdk.Communicator, data any) error {
	return h(ctx, name, ui, comm, data)
}
