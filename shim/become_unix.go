//go:build unix

package main

import (
	"fmt"
	"syscall"
)

// become replaces this process: signals and the terminal belong to the command.
func become(argv, environment []string) error {
	return fmt.Errorf("%s was not started: %w", argv[0], syscall.Exec(argv[0], argv, environment))
}
