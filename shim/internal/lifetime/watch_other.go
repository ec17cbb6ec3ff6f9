//go:build !linux

package lifetime

// WatchParent does nothing here: builds run on Linux only, and elsewhere Packer's kill of its plugins
// and the closing of their connection are enough.
func WatchParent(func()) {}
