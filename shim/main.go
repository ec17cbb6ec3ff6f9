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
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/datasource"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/lifetime"
	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/service"
)

const name = "packer-plugin-osc-chroot"

// wrongUsage is the exit status for a command line that cannot be followed, as the Python side has it.
const wrongUsage = 2

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
	// Packer puts this one anywhere.
	words := slices.DeleteFunc(slices.Clone(arguments), func(a string) bool { return a == "--protobuf" })
	if len(words) == 0 {
		fmt.Fprint(os.Stderr, set.Help)
		os.Exit(wrongUsage)
	}
	switch words[0] {
	case "describe":
		// Not connected: nothing in a description needs the service.
		return register(set, nil, nil).plugins.RunCommand(arguments...)
	case "start":
		return start(set, arguments)
	case "--version", "version":
		fmt.Printf("%s %s\n", name, set.Version)
		return nil
	case "--help", "-h", "help":
		if len(words) == 1 {
			fmt.Print(set.Help)
			return nil
		}
		arguments = []string{words[1], "--help"}
	}
	if !slices.Contains(set.Commands, arguments[0]) {
		fmt.Fprintf(os.Stderr, "%s: there is no command %q: %s --help shows those there are\n",
			name, arguments[0], name)
		os.Exit(wrongUsage)
	}
	if os.Getenv("PACKER_LOG") == "" {
		// This is a user's command: what is meant for Packer's log has no place on its screen.
		log.SetOutput(io.Discard)
	}
	argv, err := service.Locate(arguments...)
	if err != nil {
		return err
	}
	if err := service.Check(argv, set.Version); err != nil {
		return err
	}
	return become(argv, os.Environ())
}

// component is what Packer may start here.
type component interface {
	// Shutdown cancels what runs and waits for its end. It says whether there was anything.
	Shutdown() bool
}

// registered is the SDK's plugin set, and what is in it.
type registered struct {
	plugins     *plugin.Set
	builders    []component
	dataSources []component
}

func register(set components.Set, python builder.Service, successor func() builder.Service) registered {
	made := registered{plugins: plugin.NewSet()}
	made.plugins.SetVersion(version.NewRawVersion(set.Version))
	for _, each := range set.Components {
		switch each.Kind {
		case components.KindBuilder:
			b := builder.New(each, python, successor)
			made.builders = append(made.builders, b)
			made.plugins.RegisterBuilder(each.RegisteredName(), b)
		case components.KindDataSource:
			d := datasource.New(each, python)
			made.dataSources = append(made.dataSources, d)
			made.plugins.RegisterDatasource(each.RegisteredName(), d)
		}
	}
	return made
}

// start serves one component to Packer until Packer has enough of it.
func start(set components.Set, arguments []string) error {
	if os.Getenv(plugin.MagicCookieKey) != plugin.MagicCookieValue {
		return plugin.ErrManuallyStartedPlugin
	}
	// The SDK takes care of SIGINT only once Packer is connected. It is not set to be ignored, since
	// that would be inherited.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	python := service.Start(set.Version, service.Locate)
	made := register(set, python, func() builder.Service { return python.Successor() })
	go func() {
		<-interrupted
		// Packer cancels builders, but not data sources: it waits for them.
		shutdown(made.dataSources)
	}()

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
		if shutdown(slices.Concat(made.builders, made.dataSources)) {
			time.Sleep(answerTime)
		}
		python.Close()
		os.Exit(1)
	}()

	err := made.plugins.RunCommand(arguments...)
	python.Close()
	if err != nil && !errors.Is(err, plugin.ErrManuallyStartedPlugin) {
		return fmt.Errorf("serving Packer: %w", err)
	}
	return err
}

// shutdown cancels all that runs and waits for its end. It says whether there was anything.
func shutdown(running []component) bool {
	var waiting sync.WaitGroup
	results := make([]bool, len(running))
	for i, each := range running {
		waiting.Go(func() { results[i] = each.Shutdown() })
	}
	waiting.Wait()
	return slices.Contains(results, true)
}
