// packer-plugin-osc-chroot is what Packer starts, and what users start for the plugin's own commands.
// It has no policy: the work is done by the Python side, which it carries inside.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/packer-plugin-sdk/plugin"
	"github.com/hashicorp/packer-plugin-sdk/version"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/builder"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/components"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/lifetime"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/service"
)

const name = "packer-plugin-osc-chroot"

const help = `%s %s: builds OUTSCALE machine images in a chroot, without starting a VM.

Packer starts this plugin by itself. Install it with

    packer plugins install --path %[1]s github.com/outscale/osc-chroot

and use it in a template as the builder (or source) "osc-chroot".

Commands:
    doctor       say what would stop a build on this machine (--json for programs)
    localcloud   run a simulated OUTSCALE Region on this machine and a command on it
                 (localcloud --help shows more)
    reclaim      undo what builds left on this VM that were killed, or kept by
                 -on-error=abort (reclaim --help shows more)

Options:
    --help       show this text
    --version    show the version
`

// answerTime is what Packer's answer to a run that a signal ended may take on its way out.
const answerTime = 300 * time.Millisecond

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	set, err := components.Load()
	if err != nil {
		return err
	}
	command := ""
	if i := slices.IndexFunc(arguments, func(a string) bool { return a != "--protobuf" }); i >= 0 {
		command = arguments[i]
	}
	switch command {
	case "describe":
		// Not connected: nothing in a description needs the service.
		plugins, _ := register(set, nil, nil)
		return plugins.RunCommand(arguments...)
	case "start":
		return start(set, arguments)
	case "--version", "version":
		fmt.Printf("%s %s\n", name, set.Version)
		return nil
	case "--help", "-h", "help":
		fmt.Printf(help, name, set.Version)
		return nil
	case "":
		fmt.Fprintf(os.Stderr, help, name, set.Version)
		os.Exit(1)
	}
	if os.Getenv("PACKER_LOG") == "" {
		// This is a user's command: what is meant for Packer's log has no place on its screen.
		log.SetOutput(io.Discard)
	}
	argv, err := service.Locate(arguments...)
	if err != nil {
		return err
	}
	return become(argv, os.Environ())
}

// register makes the SDK's plugin set of the components.
func register(
	set components.Set, python builder.Service, successor func() builder.Service,
) (*plugin.Set, []*builder.Builder) {
	plugins := plugin.NewSet()
	plugins.SetVersion(version.NewRawVersion(set.Version))
	var builders []*builder.Builder
	for _, component := range set.Components {
		if component.Kind != components.KindBuilder {
			continue
		}
		made := builder.New(component, python, successor)
		builders = append(builders, made)
		plugins.RegisterBuilder(component.RegisteredName(), made)
	}
	return plugins, builders
}

// start serves one component to Packer until Packer has enough of it.
func start(set components.Set, arguments []string) error {
	if os.Getenv(plugin.MagicCookieKey) != plugin.MagicCookieValue {
		return plugin.ErrManuallyStartedPlugin
	}
	// The SDK takes care of SIGINT only once Packer is connected. It is not set to be ignored, since
	// that would be inherited.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	python := service.Start(service.Locate)
	plugins, builders := register(set, python, func() builder.Service { return python.Successor() })

	// The service undoes what it did without us; Packer must not be made to wait for that.
	lifetime.WatchParent(func() {
		python.Close()
		os.Exit(1)
	})
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	go func() {
		<-terminated
		log.Printf("[INFO] SIGTERM: cancelling what runs")
		if shutdown(builders) {
			time.Sleep(answerTime)
		}
		python.Close()
		os.Exit(1)
	}()

	err := plugins.RunCommand(arguments...)
	python.Close()
	if err != nil && !errors.Is(err, plugin.ErrManuallyStartedPlugin) {
		return fmt.Errorf("serving Packer: %w", err)
	}
	return err
}

// shutdown cancels all builds and waits for their end. It says whether there were any.
func shutdown(builders []*builder.Builder) bool {
	var waiting sync.WaitGroup
	results := make([]bool, len(builders))
	for i, b := range builders {
		waiting.Go(func() { results[i] = b.Shutdown() })
	}
	waiting.Wait()
	return slices.Contains(results, true)
}
