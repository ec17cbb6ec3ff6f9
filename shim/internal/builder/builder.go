// Package builder is Packer's builder on one side and the contract's on the other. It decides nothing:
// what it is asked by Packer it asks the service, and what the service asks for it asks Packer.
package builder

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/hcl/v2/hcldec"
	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	"google.golang.org/grpc"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/components"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// prepareDeadline is for a service that hangs; Prepare itself takes milliseconds.
const prepareDeadline = 2 * time.Minute

// Service is the Python side as builders use it.
type Service interface {
	// Connect waits until the service can be called.
	Connect(context.Context) (grpc.ClientConnInterface, error)
	// Ended is closed when the service is gone.
	Ended() <-chan struct{}
	// Exit says how it ended and what it last wrote to stderr; only after Ended.
	Exit() (how string, lastWords string)
}

// builderCount gives each builder of this process its id.
var builderCount atomic.Uint64

// Builder is one component of the kind builder.
type Builder struct {
	component components.Component
	service   Service
	successor func() Service
	id        string

	mutex    sync.Mutex
	prepared *contract.PrepareRequest // the last one
	shutdown bool
	running  map[*context.CancelFunc]struct{}
	idle     sync.WaitGroup
}

var _ packersdk.Builder = (*Builder)(nil)

// New gives the builder of a component. successor starts the service again where it has died.
func New(component components.Component, service Service, successor func() Service) *Builder {
	return &Builder{
		component: component,
		service:   service,
		successor: successor,
		id:        fmt.Sprintf("%s-%d", component.Name, builderCount.Add(1)),
		running:   map[*context.CancelFunc]struct{}{},
	}
}

// ConfigSpec answers from the embedded components file; the service is not asked.
func (b *Builder) ConfigSpec() hcldec.ObjectSpec {
	spec, err := b.component.Config.Spec()
	if err != nil {
		// The SDK leaves no way to say so, and a test builds the spec of every component.
		panic(fmt.Sprintf("%s: %s", b.component.Name, err))
	}
	return spec
}

// Prepare checks the configuration and gives all its problems as one error.
func (b *Builder) Prepare(raws ...any) (generatedVars []string, warnings []string, err error) {
	request := &contract.PrepareRequest{
		Component: &contract.Component{Kind: b.component.Kind, Name: b.component.Name},
		BuilderId: b.id,
	}
	for _, raw := range raws {
		config, err := EncodeConfig(raw)
		if err != nil {
			return nil, nil, err
		}
		request.RawConfigs = append(request.RawConfigs, config)
	}
	b.mutex.Lock()
	b.prepared = request
	b.mutex.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), prepareDeadline)
	defer cancel()
	conn, err := b.service.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	response, err := contract.NewBuilderClient(conn).Prepare(ctx, request)
	if err != nil {
		return nil, nil, explain(err, b.service).withLastWords()
	}
	if len(response.Errors) > 0 {
		problems := &packersdk.MultiError{}
		for _, problem := range response.Errors {
			problems.Errors = append(problems.Errors, errors.New(problem))
		}
		return response.GeneratedVars, response.Warnings, problems
	}
	return response.GeneratedVars, response.Warnings, nil
}

// Run builds. It returns when the service has kept or undone everything, also after a cancel.
func (b *Builder) Run(ctx context.Context, ui packersdk.Ui, hook packersdk.Hook) (packersdk.Artifact, error) {
	ctx, done, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	conn, err := b.service.Connect(ctx)
	if errors.Is(err, context.Canceled) {
		return nil, errCancelled
	}
	if err != nil {
		return nil, err
	}
	artifact, err := newRun(b.service, b.id, conn, ui, hook).execute(ctx)
	if died := (*failure)(nil); errors.As(err, &died) && died.serviceDied {
		return nil, b.undoDead(died, ui)
	}
	if err != nil {
		return nil, err
	}
	return artifact, nil
}

var errCancelled = errors.New("the build was cancelled")

// Shutdown cancels what runs, lets nothing new start, and returns when all has ended. It says whether
// anything was running.
func (b *Builder) Shutdown() bool {
	b.mutex.Lock()
	b.shutdown = true
	busy := len(b.running) > 0
	for cancel := range b.running {
		(*cancel)()
	}
	b.mutex.Unlock()
	b.idle.Wait()
	return busy
}

// begin registers a run for Shutdown.
func (b *Builder) begin(ctx context.Context) (context.Context, func(), error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.shutdown {
		return nil, nil, errCancelled
	}
	ctx, cancel := context.WithCancel(ctx)
	b.running[&cancel] = struct{}{}
	b.idle.Add(1)
	return ctx, func() {
		cancel()
		b.mutex.Lock()
		delete(b.running, &cancel)
		b.mutex.Unlock()
		b.idle.Done()
	}, nil
}

// cancelUntil asks the service to cancel a builder's run until the run has ended: one call may be
// lost, to a service that is busy or has only just been started.
func cancelUntil(ended <-chan struct{}, client contract.BuilderClient, id string) {
	const pause = time.Second
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if _, err := client.Cancel(ctx, &contract.CancelRequest{BuilderId: id}); err != nil {
			log.Printf("[WARN] cancel: %s", err)
		}
		cancel()
		select {
		case <-ended:
			return
		case <-time.After(pause):
		}
	}
}
