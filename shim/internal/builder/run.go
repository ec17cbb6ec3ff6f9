package builder

import (
	"context"
	"errors"
	"io"
	"log"
	"strings"
	"sync"
	"time"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	"google.golang.org/grpc"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// hookGrace is how long a cancelled hook may take to return once the stream is over. A provisioner
// that retries goes on for minutes, with nothing left that it could reach: it must not hold up the end.
const hookGrace = time.Second

// run is one execution of Builder.Run.
type run struct {
	service  Service
	id       string
	conn     grpc.ClientConnInterface
	ui       packersdk.Ui
	hook     packersdk.Hook
	undoDead bool // nothing is built, and no artifact comes

	sending sync.Mutex // a stream takes one message at a time
	stream  grpc.BidiStreamingClient[contract.RunRequest, contract.RunEvent]

	// over ends when the stream does; the questions and hooks that are then still open end with it.
	over     context.Context
	open     sync.WaitGroup
	mutex    sync.Mutex
	hooks    map[uint64]context.CancelFunc
	artifact *artifact
}

func newRun(
	service Service, id string, conn grpc.ClientConnInterface, ui packersdk.Ui, hook packersdk.Hook,
) *run {
	return &run{
		service: service, id: id, conn: conn, ui: ui, hook: hook,
		hooks: map[uint64]context.CancelFunc{},
	}
}

// execute follows the stream to its end. Cancelling ctx does not break the stream: the service is told,
// and goes on talking while it cleans up.
func (r *run) execute(ctx context.Context) (packersdk.Artifact, error) {
	client := contract.NewBuilderClient(r.conn)
	over, end := context.WithCancel(context.Background())
	defer end()
	r.over = over
	stream, err := client.Run(over)
	if err != nil {
		return nil, r.failed(err)
	}
	r.stream = stream
	r.send(&contract.RunRequest{Message: &contract.RunRequest_Start{
		Start: &contract.RunStart{BuilderId: r.id, UndoDead: r.undoDead},
	}})
	stop := context.AfterFunc(ctx, func() { cancelUntil(over.Done(), client, r.id) })
	defer stop()

	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			// What is open is hopeless now.
			end()
			r.wait()
			return nil, r.failed(err)
		}
		r.handle(event)
	}
	end()
	r.wait()
	if r.artifact == nil && !r.undoDead {
		return nil, errors.New("the plugin has a defect: its service ended the build with neither an " +
			"artifact nor an error")
	}
	return r.artifact, nil
}

// failed gives the build's error. What the service last wrote goes before it: Packer prints a builder's
// error twice.
func (r *run) failed(err error) error {
	explained := explain(err, r.service)
	if explained.lastWords != "" {
		r.ui.Error(explained.lastWords)
	}
	return explained
}

func (r *run) send(request *contract.RunRequest) {
	r.sending.Lock()
	defer r.sending.Unlock()
	// A failure shows in Recv as the stream's status.
	if err := r.stream.Send(request); err != nil {
		log.Printf("[DEBUG] run: not sent: %s", err)
	}
}

// handle does what the service asks for, in its order; only what may take long does not hold up the
// stream.
func (r *run) handle(event *contract.RunEvent) {
	switch event := event.Event.(type) {
	case *contract.RunEvent_Ui:
		r.show(event.Ui)
	case *contract.RunEvent_Ask:
		r.open.Go(func() { r.ask(event.Ask) })
	case *contract.RunEvent_Provision:
		ctx, cancel := context.WithCancel(r.over)
		r.mutex.Lock()
		r.hooks[event.Provision.Id] = cancel
		r.mutex.Unlock()
		r.open.Go(func() {
			defer r.cancelHook(event.Provision.Id)
			r.provision(ctx, event.Provision)
		})
	case *contract.RunEvent_CancelProvision:
		r.cancelHook(event.CancelProvision.Id)
	case *contract.RunEvent_Artifact:
		r.artifact = newArtifact(r.conn, r.service, event.Artifact)
	default:
		log.Printf("[WARN] run: unknown event %T", event)
	}
}

func (r *run) show(message *contract.UiMessage) {
	switch message.Kind {
	case contract.UiMessage_ERROR:
		r.ui.Error(message.Text)
	case contract.UiMessage_MACHINE:
		r.ui.Machine(message.Text, message.Args...)
	case contract.UiMessage_MESSAGE:
		r.ui.Message(message.Text)
	default:
		r.ui.Say(message.Text)
	}
}

func (r *run) ask(question *contract.Ask) {
	answer := &contract.AskAnswer{Id: question.Id}
	text, err := r.ui.Ask(question.Query)
	if err != nil {
		answer.Error = oneLine(err)
	} else {
		answer.Text = text
	}
	r.send(&contract.RunRequest{Message: &contract.RunRequest_AskAnswer{AskAnswer: answer}})
}

func (r *run) provision(ctx context.Context, request *contract.Provision) {
	communicator := &communicator{
		ctx:     ctx,
		client:  contract.NewCommunicatorClient(r.conn),
		service: r.service,
		id:      request.CommunicatorId,
	}
	data := make(map[string]any, len(request.Data))
	for name, value := range request.Data {
		data[name] = value
	}
	result := &contract.ProvisionResult{Id: request.Id}
	if err := r.hook.Run(ctx, request.Hook, r.ui, communicator, data); err != nil {
		// An empty error would be success.
		result.Error = oneLine(err)
	}
	r.send(&contract.RunRequest{
		Message: &contract.RunRequest_ProvisionResult{ProvisionResult: result},
	})
}

func (r *run) cancelHook(id uint64) {
	r.mutex.Lock()
	cancel := r.hooks[id]
	delete(r.hooks, id)
	r.mutex.Unlock()
	if cancel != nil {
		cancel()
	}
}

// wait gives the cancelled hooks time to return. A question that nobody answers cannot be taken back.
func (r *run) wait() {
	done := make(chan struct{})
	go func() {
		r.open.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(hookGrace):
		log.Printf("[WARN] run: a hook or a question is still open")
	}
}

func oneLine(err error) string {
	text := strings.TrimSpace(err.Error())
	if text == "" {
		return "failed without a reason"
	}
	return text
}
