// Package lifetime ties this process to the Packer that started it.
//
// The SDK tells a running build nothing when Packer is gone, and Packer's own end is not its parent's:
// `packer` is a wrapper around a second packer process, and either may be killed.
package lifetime
