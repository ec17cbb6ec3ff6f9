package service

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/bundle"
)

// EnvPython is the environment variable that names the interpreter that has the Python side, in a build
// without the bundle.
const EnvPython = "OSC_CHROOT_PYTHON"

const pythonModule = "packer_plugin_osc_chroot"

// Locate gives the command line that runs the Python side with these arguments: the embedded bundle
// where this build has one (unpacking it first if need be), else an interpreter of the host.
func Locate(arguments ...string) ([]string, error) {
	if bundle.Embedded() {
		executable, err := bundle.Ensure()
		if err != nil {
			return nil, err
		}
		return append([]string{executable}, arguments...), nil
	}
	interpreter := os.Getenv(EnvPython)
	if interpreter == "" {
		interpreter = "python3"
	}
	path, err := exec.LookPath(interpreter)
	if err != nil && os.Getenv(EnvPython) != "" {
		return nil, fmt.Errorf("%s names %q, which is not an executable: this build of the plugin has "+
			"no Python inside and needs the interpreter that has the package %s",
			EnvPython, interpreter, pythonModule)
	}
	if err != nil {
		return nil, fmt.Errorf("there is no python3 on PATH: this build of the plugin has no Python "+
			"inside; set %s to an interpreter that has the package %s", EnvPython, pythonModule)
	}
	return append([]string{path, "-m", pythonModule}, arguments...), nil
}

// notThere is the status of a probe for a missing package. Interpreters have no such status of their own.
const notThere = 93

// Check says what is missing where the interpreter of argv, which Locate gave, has no Python side, before
// that interpreter says it in its own way.
func Check(argv []string, version string) error {
	if bundle.Embedded() {
		return nil
	}
	probe := fmt.Sprintf("import importlib.util, sys\n"+
		"sys.exit(0 if importlib.util.find_spec(%q) else %d)", pythonModule, notThere)
	err := exec.Command(argv[0], "-c", probe).Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == notThere {
		return missing(argv[0], version)
	}
	return nil
}

func missing(interpreter, version string) error {
	return fmt.Errorf("%s has no package %s: install the wheel of version %s there, or set %s to an "+
		"interpreter that has it", interpreter, pythonModule, version, EnvPython)
}
