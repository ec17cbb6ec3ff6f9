package datasource

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	packrpc "github.com/hashicorp/packer-plugin-sdk/rpc"
	"github.com/zclconf/go-cty/cty"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/components"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// fakePython is the contract's other side in this process, on a real socket.
type fakePython struct {
	contract.UnimplementedDataSourceServer

	configured *contract.ConfigureRequest
	problems   []string
	execute    func(context.Context) (*contract.ExecuteResponse, error)
	absent     error
	conn       *grpc.ClientConn
	ended      chan struct{}
}

func newFakePython(t *testing.T) *fakePython {
	t.Helper()
	fake := &fakePython{ended: make(chan struct{})}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	contract.RegisterDataSourceServer(server, fake)
	go server.Serve(listener)
	fake.conn, err = grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fake.conn.Close()
		server.Stop()
	})
	return fake
}

func (f *fakePython) Connect(context.Context) (grpc.ClientConnInterface, error) {
	return f.conn, f.absent
}
func (f *fakePython) Ended() <-chan struct{} { return f.ended }
func (f *fakePython) Exit() (string, string) { return "exit status 3", "Boom" }

func (f *fakePython) Configure(_ context.Context, request *contract.ConfigureRequest) (*contract.ConfigureResponse, error) {
	f.configured = request
	return &contract.ConfigureResponse{Errors: f.problems}, nil
}

func (f *fakePython) Execute(ctx context.Context, request *contract.ExecuteRequest) (*contract.ExecuteResponse, error) {
	if request.DataSourceId != f.configured.GetDataSourceId() {
		return nil, status.Error(codes.FailedPrecondition, "Execute before a successful Configure")
	}
	return f.execute(ctx)
}

func omi(t *testing.T) components.Component {
	t.Helper()
	set, err := components.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, component := range set.Components {
		if component.Kind == components.KindDataSource && component.RegisteredName() == "omi" {
			return component
		}
	}
	t.Fatal("there is no data source omi")
	return components.Component{}
}

// overPacker gives the data source as Packer has it, at the other end of its RPC.
func overPacker(t *testing.T, useProto bool, source *DataSource) packersdk.Datasource {
	t.Helper()
	here, there := net.Pipe()
	server, err := packrpc.NewServer(here)
	if err != nil {
		t.Fatal(err)
	}
	server.UseProto = useProto
	if err := server.RegisterDatasource(source); err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	client, err := packrpc.NewClient(there)
	if err != nil {
		t.Fatal(err)
	}
	client.UseProto = useProto
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client.Datasource()
}

const found = `{"id": "ami-1", "name": "base", "description": "", "account_id": "1", "account_alias": "",
	"region": "eu-west-2", "creation_date": "", "architecture": "x86_64", "boot_modes": ["legacy"],
	"product_codes": [], "root_device_name": "/dev/sda1", "root_snapshot_id": "snap-1",
	"root_volume_size": 10, "root_volume_type": "gp2", "tags": {"a": "b"}}`

func TestOverBothEncodings(t *testing.T) {
	for _, useProto := range []bool{false, true} {
		fake := newFakePython(t)
		fake.execute = func(context.Context) (*contract.ExecuteResponse, error) {
			return &contract.ExecuteResponse{ValueJson: []byte(found)}, nil
		}
		source := overPacker(t, useProto, New(omi(t), fake))
		if source.ConfigSpec()["owners"] == nil || source.OutputSpec()["id"] == nil {
			t.Error("the specs are not those of components.json")
		}
		err := source.Configure(cty.ObjectVal(map[string]cty.Value{
			"owners": cty.ListVal([]cty.Value{cty.StringVal("self")}), "region": cty.NullVal(cty.String),
		}))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(fake.configured.RawConfig); got != `{"owners":["self"],"region":null}` {
			t.Error(got)
		}
		if fake.configured.Component.Kind != "datasource" || fake.configured.Component.Name != "osc-chroot-omi" {
			t.Error(fake.configured.Component)
		}
		value, err := source.Execute()
		if err != nil {
			t.Fatal(err)
		}
		if value.GetAttr("id").AsString() != "ami-1" || !value.GetAttr("tags").Type().Equals(cty.Map(cty.String)) {
			t.Errorf("%#v", value)
		}
	}
}

func TestErrorsOverBothEncodings(t *testing.T) {
	for _, useProto := range []bool{false, true} {
		fake := newFakePython(t)
		source := overPacker(t, useProto, New(omi(t), fake))
		fake.problems = []string{"owners: missing", "filters: wrong"}
		err := source.Configure(cty.EmptyObjectVal)
		if err == nil || err.Error() != "2 error(s) occurred:\n\n* owners: missing\n* filters: wrong" {
			t.Error(err)
		}
		for answer, want := range map[error]string{
			status.Error(codes.FailedPrecondition, "filters: none matches\nami-1\nami-2"): "filters: none matches:\n    ami-1\n    ami-2",
			status.Error(codes.FailedPrecondition, "one line"):                            "one line",
			status.Error(codes.Internal, "KeyError: 'x'"):                                 "the plugin has a defect: KeyError: 'x'",
		} {
			fake.execute = func(context.Context) (*contract.ExecuteResponse, error) { return nil, answer }
			if _, err := source.Execute(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
		fake.execute = func(context.Context) (*contract.ExecuteResponse, error) {
			return &contract.ExecuteResponse{ValueJson: []byte(`{"id": []}`)}, nil
		}
		if _, err := source.Execute(); err == nil || !strings.Contains(err.Error(), "do not fit together") {
			t.Error(err)
		}
		// As where this build has no Python inside, and there is none with the package.
		fake.absent = errors.New("there is no python3 on PATH")
		if err := source.Configure(cty.EmptyObjectVal); err == nil || err.Error() != "there is no python3 on PATH" {
			t.Error(err)
		}
	}
}

func TestShutdown(t *testing.T) {
	fake := newFakePython(t)
	source := New(omi(t), fake)
	if source.Shutdown() {
		t.Error("nothing ran")
	}
	if err := source.Configure(cty.EmptyObjectVal); !errors.Is(err, errCancelled) {
		t.Error(err)
	}

	source = New(omi(t), fake)
	if err := source.Configure(cty.EmptyObjectVal); err != nil {
		t.Fatal(err)
	}
	running := make(chan struct{})
	cancelled := make(chan struct{})
	fake.execute = func(ctx context.Context) (*contract.ExecuteResponse, error) {
		close(running)
		<-ctx.Done()
		close(cancelled)
		return nil, ctx.Err()
	}
	ended := make(chan error, 1)
	go func() {
		_, err := source.Execute()
		ended <- err
	}()
	<-running
	if !source.Shutdown() {
		t.Error("something ran")
	}
	if err := <-ended; !errors.Is(err, errCancelled) {
		t.Error(err)
	}
	select {
	case <-cancelled:
	case <-time.After(5 * time.Second):
		t.Error("the service was not told")
	}
}
