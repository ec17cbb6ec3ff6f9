//go:build bundle && linux

package bundle

import _ "embed"

// archive is a zstd-compressed tar of the frozen Python side; digest, the SHA-256 of that file in hex,
// is computed when it is packed so that no start has to.
var (
	//go:embed bundle.tar.zst
	archive []byte
	//go:embed bundle.sha256
	digest string
)
