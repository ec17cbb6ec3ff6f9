//go:build !(bundle && linux)

package bundle

var (
	archive []byte
	digest  string
)
