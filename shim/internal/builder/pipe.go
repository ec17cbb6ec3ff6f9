package builder

import (
	"fmt"
	"io"
	"os"
)

// chunkSize is what is read and written at a time.
const chunkSize = 512 << 10

// pipe carries the content of a file between this process and the service, which opens its end by a path
// for as long as this process holds that too.
type pipe struct {
	ours, theirs *os.File
}

type direction bool

const (
	toService   direction = true
	fromService direction = false
)

// newPipe also gives the path of the service's end.
func newPipe(direction direction) (*pipe, string, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, "", fmt.Errorf("no pipe to the plugin's service: %w", err)
	}
	made := &pipe{ours: reader, theirs: writer}
	if direction == toService {
		made = &pipe{ours: writer, theirs: reader}
	}
	var path string
	// Not Fd, which makes a descriptor a blocking one.
	connection, err := made.theirs.SyscallConn()
	if err == nil {
		err = connection.Control(func(fd uintptr) { path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) })
	}
	if err != nil {
		made.close()
		return nil, "", fmt.Errorf("no pipe to the plugin's service: %w", err)
	}
	return made, path, nil
}

// close also ends a read or write of ours that waits.
func (p *pipe) close() {
	p.ours.Close()
	p.theirs.Close()
}

// readError says that the source of a copy failed, not its target.
type readError struct{ cause error }

func (e readError) Error() string { return e.cause.Error() }

// copyChunks copies to the end in large pieces, which io.Copy does not for streams.
func copyChunks(to io.Writer, from io.Reader) error {
	buffer := make([]byte, chunkSize)
	for {
		count, err := from.Read(buffer)
		if count > 0 {
			if _, err := to.Write(buffer[:count]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return readError{err}
		}
	}
}
