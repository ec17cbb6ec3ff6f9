package builder

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// killed runs a build whose service dies, with this successor, after a cancel if so wanted.
func killed(t *testing.T, successor *fakePython, cancelled bool) (*recorder, error) {
	t.Helper()
	fake := newFakePython(t)
	prepared := func(*contract.PrepareRequest) *contract.PrepareResponse { return &contract.PrepareResponse{} }
	fake.prepare = prepared
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	fake.run = func(stream runStream) error {
		if cancelled {
			cancel()
			<-fake.cancelled
		}
		go fake.die()
		<-stream.Context().Done()
		return nil
	}
	builder := New(testComponent(t), fake, func() Service { return successor })
	if _, _, err := builder.Prepare(map[string]any{"omi_name": "x"}); err != nil {
		t.Fatal(err)
	}
	ui := newRecorder()
	artifact, err := builder.Run(ctx, ui, nil)
	if artifact != nil || err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v %v", artifact, err)
	}
	return ui, err
}

func successor(t *testing.T, end error) (fake *fakePython, starts *[]*contract.RunStart) {
	t.Helper()
	fake = newFakePython(t)
	starts = &[]*contract.RunStart{}
	var names []string
	fake.prepare = func(request *contract.PrepareRequest) *contract.PrepareResponse {
		names = append(names, string(request.RawConfigs[0]))
		return &contract.PrepareResponse{}
	}
	fake.started = func(start *contract.RunStart) { *starts = append(*starts, start) }
	fake.run = func(stream runStream) error {
		if len(names) != 1 || !strings.Contains(names[0], `"omi_name":"x"`) {
			return status.Errorf(codes.Internal, "prepared with %v", names)
		}
		if err := stream.Send(say("undoing")); err != nil {
			return err
		}
		return end
	}
	return fake, starts
}

func TestASuccessorUndoesWhatADeadServiceMade(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		fake, starts := successor(t, nil)
		ui, err := killed(t, fake, cancelled)
		want := "the plugin's service ended unexpectedly (exit status 3); what the build had made is undone"
		if err.Error() != want {
			t.Errorf("%v", err)
		}
		if len(*starts) != 1 || !(*starts)[0].UndoDead {
			t.Errorf("%v", *starts)
		}
		if got := ui.String(); !strings.HasSuffix(got, "what the build had made...|say undoing") {
			t.Error(got)
		}
		if len(fake.cancels) > 0 {
			t.Errorf("undoing was cancelled: %v", fake.cancels)
		}
	}
}

func TestASuccessorThatCannotUndo(t *testing.T) {
	fake, _ := successor(t, status.Error(codes.FailedPrecondition, "1 of its parts could not be undone"))
	_, err := killed(t, fake, false)
	if !strings.Contains(err.Error(), "is not undone (1 of its parts could not be undone)") ||
		!strings.HasSuffix(err.Error(), "packer-plugin-osc-chroot reclaim") {
		t.Errorf("%v", err)
	}
}

func TestASuccessorThatDoesNotStart(t *testing.T) {
	fake := newFakePython(t)
	fake.prepare = func(*contract.PrepareRequest) *contract.PrepareResponse { return &contract.PrepareResponse{} }
	fake.run = func(stream runStream) error {
		go fake.die()
		<-stream.Context().Done()
		return nil
	}
	builder := New(testComponent(t), fake, func() Service { return broken{} })
	if _, _, err := builder.Prepare(map[string]any{}); err != nil {
		t.Fatal(err)
	}
	if _, err := builder.Run(context.Background(), newRecorder(), nil); !strings.Contains(err.Error(), "is not undone (no memory)") {
		t.Errorf("%v", err)
	}
}

type broken struct{ unreachable }

func (broken) Connect(context.Context) (grpc.ClientConnInterface, error) {
	return nil, errors.New("no memory")
}
