package builder

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

type runStream = grpc.BidiStreamingServer[contract.RunRequest, contract.RunEvent]

func say(text string) *contract.RunEvent {
	return uiEvent(contract.UiMessage_SAY, text)
}

func uiEvent(kind contract.UiMessage_Kind, text string, args ...string) *contract.RunEvent {
	message := &contract.UiMessage{Kind: kind, Text: text, Args: args}
	return &contract.RunEvent{Event: &contract.RunEvent_Ui{Ui: message}}
}

func ask(id uint64, query string) *contract.RunEvent {
	return &contract.RunEvent{Event: &contract.RunEvent_Ask{Ask: &contract.Ask{Id: id, Query: query}}}
}

func provision(id uint64, data map[string]string) *contract.RunEvent {
	return &contract.RunEvent{Event: &contract.RunEvent_Provision{Provision: &contract.Provision{
		Id: id, Hook: packersdk.HookProvision, CommunicatorId: "c", Data: data,
	}}}
}

func cancelProvision(id uint64) *contract.RunEvent {
	return &contract.RunEvent{Event: &contract.RunEvent_CancelProvision{
		CancelProvision: &contract.CancelProvision{Id: id},
	}}
}

func finished() *contract.RunEvent {
	return &contract.RunEvent{Event: &contract.RunEvent_Artifact{Artifact: &contract.ArtifactInfo{
		ArtifactId: "a-1", BuilderTypeId: "outscale.chroot", Id: "eu-west-2:ami-1",
		Description: "OMI ami-1",
	}}}
}

func sendAll(stream runStream, events ...*contract.RunEvent) error {
	for _, event := range events {
		if err := stream.Send(event); err != nil {
			return err
		}
	}
	return nil
}

// start runs a builder through the SDK's own RPC.
func start(t *testing.T, fake *fakePython, ctx context.Context, ui packersdk.Ui, hook hookFunc) (packersdk.Artifact, error) {
	t.Helper()
	if hook == nil {
		hook = func(context.Context, string, packersdk.Ui, packersdk.Communicator, any) error { return nil }
	}
	return overPacker(t, true, New(testComponent(t), fake, nil)).Run(ctx, ui, hook)
}

func TestRun(t *testing.T) {
	fake := newFakePython(t)
	var answers []*contract.AskAnswer
	var result *contract.ProvisionResult
	fake.run = func(stream runStream) error {
		err := sendAll(stream, say("one"), uiEvent(contract.UiMessage_MESSAGE, "two"),
			uiEvent(contract.UiMessage_ERROR, "three"),
			uiEvent(contract.UiMessage_MACHINE, "four", "x", "y"), ask(1, "ok?"))
		if err != nil {
			return err
		}
		for _, next := range []*contract.RunEvent{ask(2, "refused?"), provision(3, map[string]string{"Device": "/dev/xvdf"})} {
			answer, err := stream.Recv()
			if err != nil {
				return err
			}
			answers = append(answers, answer.GetAskAnswer())
			if err := stream.Send(next); err != nil {
				return err
			}
		}
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		result = request.GetProvisionResult()
		return sendAll(stream, say("done"), finished())
	}
	ui := newRecorder()
	var hookName string
	var hookData any
	artifact, err := start(t, fake, context.Background(), ui,
		func(_ context.Context, name string, ui packersdk.Ui, comm packersdk.Communicator, data any) error {
			hookName, hookData = name, data
			ui.Say("from the provisioner")
			return errors.New("script exited with 3")
		})
	if err != nil {
		t.Fatal(err)
	}
	if got := ui.String(); got != "say one|message two|error three|machine four x,y|say from the provisioner|say done" {
		t.Error(got)
	}
	if answers[0].Id != 1 || answers[0].Text != "answer to ok?" || answers[1].Id != 2 || answers[1].Error != "no terminal" {
		t.Errorf("%v", answers)
	}
	if result.Id != 3 || result.Error != "script exited with 3" {
		t.Errorf("%v", result)
	}
	if hookName != packersdk.HookProvision {
		t.Error(hookName)
	}
	if data, ok := hookData.(map[any]any); !ok || data["Device"] != "/dev/xvdf" {
		t.Errorf("%#v", hookData)
	}

	if artifact.Id() != "eu-west-2:ami-1" || artifact.String() != "OMI ami-1" || artifact.BuilderId() != "outscale.chroot" || len(artifact.Files()) != 0 {
		t.Errorf("%v %v %v %v", artifact.Id(), artifact, artifact.BuilderId(), artifact.Files())
	}
	want := map[any]any{"text": "a", "number": int64(12), "half": 0.5, "list": []any{int64(1), "b", nil, true}}
	if got := artifact.State("known"); !reflect.DeepEqual(got, want) {
		t.Errorf("%#v", got)
	}
	if got := artifact.State("unknown"); got != nil {
		t.Errorf("%#v", got)
	}
	if err := artifact.Destroy(); err != nil || fake.destroyed[0] != "a-1" {
		t.Errorf("%v %v", err, fake.destroyed)
	}
}

func TestArtifactDestroyFails(t *testing.T) {
	fake := newFakePython(t)
	fake.destroyed = []string{"before"}
	artifact := newArtifact(fake.conn, fake, &contract.ArtifactInfo{ArtifactId: "a-1"})
	if err := artifact.Destroy(); err == nil || err.Error() != "ami-1 is in use" {
		t.Errorf("%v", err)
	}
}

func TestRunErrors(t *testing.T) {
	for want, err := range map[string]error{
		"the volume is too small":                      status.Error(codes.FailedPrecondition, "the volume is too small"),
		"the build was cancelled":                      status.Error(codes.Canceled, "the build was cancelled"),
		"the plugin has a defect: KeyError: 'x' (":     status.Error(codes.Unknown, "KeyError: 'x'\nTraceback"),
		"do not fit together: unknown method":          status.Error(codes.Unimplemented, "unknown method"),
		"the plugin has a defect: its service ended":   nil,
		"the plugin's service gave no reason: Aborted": status.Error(codes.Aborted, ""),
	} {
		fake := newFakePython(t)
		fake.run = func(runStream) error {
			// What the stream said last holds, also where the service is gone when it is read.
			close(fake.ended)
			return err
		}
		artifact, got := start(t, fake, context.Background(), newRecorder(), nil)
		if artifact != nil || got == nil || !strings.Contains(got.Error(), want) || strings.Contains(got.Error(), "\n") {
			t.Errorf("got %v, want %q", got, want)
		}
	}
}

func TestCancelKeepsTheStreamUntilEverythingIsUndone(t *testing.T) {
	fake := newFakePython(t)
	provisioning := make(chan struct{})
	fake.run = func(stream runStream) error {
		if err := stream.Send(provision(1, nil)); err != nil {
			return err
		}
		<-fake.cancelled
		if err := sendAll(stream, say("cancelling"), cancelProvision(1)); err != nil {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
		// The cleaning up takes longer than the pause between two cancels.
		time.Sleep(1200 * time.Millisecond)
		if err := stream.Send(say("undone")); err != nil {
			return err
		}
		return status.Error(codes.Canceled, "the build was cancelled")
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-provisioning
		cancel()
	}()
	ui := newRecorder()
	artifact, err := start(t, fake, ctx, ui,
		func(ctx context.Context, _ string, _ packersdk.Ui, _ packersdk.Communicator, _ any) error {
			close(provisioning)
			<-ctx.Done()
			return ctx.Err()
		})
	if artifact != nil || err == nil || err.Error() != "the build was cancelled" {
		t.Errorf("%v %v", artifact, err)
	}
	if got := ui.String(); got != "say cancelling|say undone" {
		t.Error(got)
	}
	fake.mutex.Lock()
	defer fake.mutex.Unlock()
	if len(fake.cancels) < 2 {
		t.Errorf("cancelled only %d times", len(fake.cancels))
	}
}

func TestDeathOfTheService(t *testing.T) {
	fake := newFakePython(t)
	provisioning, hookEnded := make(chan struct{}), make(chan struct{})
	fake.run = func(stream runStream) error {
		if err := stream.Send(provision(1, nil)); err != nil {
			return err
		}
		<-stream.Context().Done()
		return nil
	}
	go func() {
		<-provisioning
		fake.die()
	}()
	ui := newRecorder()
	began := time.Now()
	_, err := start(t, fake, context.Background(), ui,
		func(ctx context.Context, _ string, _ packersdk.Ui, comm packersdk.Communicator, _ any) error {
			defer close(hookEnded)
			close(provisioning)
			<-ctx.Done()
			return ctx.Err()
		})
	if err == nil || err.Error() != "the plugin's service ended unexpectedly (exit status 3)" {
		t.Errorf("%v", err)
	}
	select {
	case <-hookEnded:
	default:
		t.Error("the provisioners were still running")
	}
	if got := ui.String(); got != "error Boom: last words" {
		t.Error(got)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestShutdown(t *testing.T) {
	fake := newFakePython(t)
	running := make(chan struct{})
	fake.run = func(stream runStream) error {
		close(running)
		<-fake.cancelled
		return status.Error(codes.Canceled, "the build was cancelled")
	}
	builder := New(testComponent(t), fake, nil)
	ended := make(chan error, 1)
	go func() {
		_, err := builder.Run(context.Background(), newRecorder(), nil)
		ended <- err
	}()
	<-running
	if !builder.Shutdown() {
		t.Error("nothing was running")
	}
	if err := <-ended; err == nil || err.Error() != "the build was cancelled" {
		t.Errorf("%v", err)
	}
	if _, err := builder.Run(context.Background(), newRecorder(), nil); !errors.Is(err, errCancelled) {
		t.Errorf("%v", err)
	}
	if New(testComponent(t), fake, nil).Shutdown() {
		t.Error("something was running")
	}
}

func TestCancelBeforeTheServiceIsThere(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	builder := New(testComponent(t), neverReady{}, nil)
	if _, err := builder.Run(ctx, newRecorder(), nil); !errors.Is(err, errCancelled) {
		t.Errorf("%v", err)
	}
}

type neverReady struct{ unreachable }

func (neverReady) Connect(ctx context.Context) (grpc.ClientConnInterface, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
