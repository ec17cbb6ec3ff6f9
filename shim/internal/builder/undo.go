package builder

import (
	"context"
	"errors"
	"fmt"
	"log"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// undoDead has a new service undo what the one that died had made, and gives the build's one error. No
// cancel ends it: it is what a cancel would do.
func (b *Builder) undoDead(died *failure, ui packersdk.Ui) error {
	if b.successor == nil {
		return died
	}
	ui.Say("The plugin's service is gone. Starting it again, to undo what the build had made...")
	if err := b.runUndo(ui); err != nil {
		log.Printf("[ERROR] undo: %s", err)
		died.message += fmt.Sprintf("; what it had made is not undone (%s): the next build here tries "+
			"again, as does packer-plugin-osc-chroot reclaim", err)
		return died
	}
	died.message += "; what the build had made is undone"
	return died
}

func (b *Builder) runUndo(ui packersdk.Ui) error {
	b.mutex.Lock()
	request := b.prepared
	b.mutex.Unlock()
	if request == nil {
		return errors.New("it was never prepared")
	}
	ctx, cancel := context.WithTimeout(context.Background(), prepareDeadline)
	defer cancel()
	service := b.successor()
	conn, err := service.Connect(ctx)
	if err != nil {
		return err
	}
	response, err := contract.NewBuilderClient(conn).Prepare(ctx, request)
	if err != nil {
		return explain(err, service)
	}
	if len(response.Errors) > 0 {
		return errors.New(response.Errors[0])
	}
	undo := newRun(service, b.id, conn, ui, nil)
	undo.undoDead = true
	_, err = undo.execute(context.Background())
	return err
}
