//go:build !linux

package bundle

import "errors"

// Ensure fails: a bundle holds Linux executables, and only builds for Linux embed it.
func Ensure() (string, error) {
	return "", errors.New("the bundled service runs on Linux only")
}
