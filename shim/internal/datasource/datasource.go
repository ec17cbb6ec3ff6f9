// Package datasource is Packer's data source on one side and the contract's on the other. Like the
// builder's, it decides nothing.
package datasource

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/hcl/v2/hcldec"
	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
	"google.golang.org/grpc/status"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/builder"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/components"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

const (
	// For a service that hangs; Configure itself takes milliseconds.
	configureDeadline = 2 * time.Minute
	// The service gives up sooner by itself.
	executeDeadline = 30 * time.Minute
)

// As a build says it: this is part of one.
var errCancelled = errors.New("the build was cancelled")

// dataSourceCount gives each data source of this process its id.
var dataSourceCount atomic.Uint64

// DataSource is one component of the kind data source.
type DataSource struct {
	component components.Component
	service   builder.Service
	id        string

	ctx    context.Context // done after Shutdown
	cancel context.CancelFunc
	calls  sync.RWMutex // read-locked by each that runs
}

var _ packersdk.Datasource = (*DataSource)(nil)

// New gives the data source of a component.
func New(component components.Component, service builder.Service) *DataSource {
	ctx, cancel := context.WithCancel(context.Background())
	return &DataSource{
		component: component,
		service:   service,
		id:        fmt.Sprintf("%s-%d", component.Name, dataSourceCount.Add(1)),
		ctx:       ctx,
		cancel:    cancel,
	}
}

// ConfigSpec answers from the embedded components file; the service is not asked.
func (d *DataSource) ConfigSpec() hcldec.ObjectSpec { return d.spec(d.component.Config) }

// OutputSpec answers as ConfigSpec does.
func (d *DataSource) OutputSpec() hcldec.ObjectSpec { return d.spec(d.component.Output) }

func (d *DataSource) spec(block components.Block) hcldec.ObjectSpec {
	spec, err := block.Spec()
	if err != nil {
		// The SDK leaves no way to say so, and a test builds the specs of every component.
		panic(fmt.Sprintf("%s: %s", d.component.Name, err))
	}
	return spec
}

// Configure checks the options and gives all their problems as one error.
func (d *DataSource) Configure(raws ...any) error {
	if len(raws) != 1 {
		return fmt.Errorf("Packer gave %d configurations for one data source", len(raws))
	}
	config, err := builder.EncodeConfig(raws[0])
	if err != nil {
		return err
	}
	ctx, done := d.begin(configureDeadline)
	defer done()
	conn, err := d.service.Connect(ctx)
	if err != nil {
		return d.explain(err)
	}
	response, err := contract.NewDataSourceClient(conn).Configure(ctx, &contract.ConfigureRequest{
		Component:    &contract.Component{Kind: d.component.Kind, Name: d.component.Name},
		DataSourceId: d.id,
		RawConfig:    config,
	})
	if err != nil {
		return d.explain(err)
	}
	if len(response.Errors) == 0 {
		return nil
	}
	problems := &packersdk.MultiError{}
	for _, problem := range response.Errors {
		problems.Errors = append(problems.Errors, errors.New(problem))
	}
	return problems
}

// Execute gives an object with every attribute of the output spec.
func (d *DataSource) Execute() (cty.Value, error) {
	nothing := cty.NullVal(cty.EmptyObject)
	ctx, done := d.begin(executeDeadline)
	defer done()
	conn, err := d.service.Connect(ctx)
	if err != nil {
		return nothing, d.explain(err)
	}
	request := &contract.ExecuteRequest{DataSourceId: d.id}
	response, err := contract.NewDataSourceClient(conn).Execute(ctx, request)
	if err != nil {
		return nothing, d.explain(err)
	}
	value, err := ctyjson.Unmarshal(response.ValueJson, hcldec.ImpliedType(d.OutputSpec()))
	if err != nil {
		return nothing, fmt.Errorf("the plugin's two halves do not fit together: %w", err)
	}
	return value, nil
}

// Shutdown cancels what runs, now and later, and returns when it has ended. It says whether anything
// was running.
func (d *DataSource) Shutdown() bool {
	d.cancel()
	busy := !d.calls.TryLock()
	if busy {
		d.calls.Lock()
	}
	d.calls.Unlock()
	return busy
}

// begin registers a call for Shutdown.
func (d *DataSource) begin(deadline time.Duration) (context.Context, func()) {
	d.calls.RLock()
	ctx, cancel := context.WithTimeout(d.ctx, deadline)
	return ctx, func() {
		cancel()
		d.calls.RUnlock()
	}
}

// explain gives a failed call in the builder's words; what Connect says is the user's already.
func (d *DataSource) explain(err error) error {
	if d.ctx.Err() != nil {
		return errCancelled
	}
	if _, ok := status.FromError(err); !ok {
		return err
	}
	return builder.Explain(err, d.service)
}
