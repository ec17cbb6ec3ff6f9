// Package bundle holds the frozen Python side, in builds that have it inside (build tag `bundle`), and
// unpacks it once into the user's cache.
//
// The cache is checked before each use: it is code that this process is about to run, perhaps as root.
package bundle

// Names in the bundle.
const (
	executableName  = "packer-plugin-osc-chroot-service"
	descriptionName = "bundle.json"
)

// Embedded says whether this build has the Python side inside.
func Embedded() bool { return len(archive) > 0 }
