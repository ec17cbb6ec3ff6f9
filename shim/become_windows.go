package main

import (
	"errors"
	"os"
	"os/exec"
)

// become runs the command and ends with its status: Windows cannot replace a process.
func become(argv, environment []string) error {
	command := exec.Command(argv[0], argv[1:]...)
	command.Env = environment
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := command.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	return err
}
