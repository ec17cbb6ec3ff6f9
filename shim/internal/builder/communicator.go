package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// communicator carries what provisioners do to the chroot that it names. Its calls end with its
// context, which is that of the hook.
type communicator struct {
	ctx     context.Context
	client  contract.CommunicatorClient
	service Service
	id      string
}

var _ packersdk.Communicator = (*communicator)(nil)

// Start returns when the service says, by the stream's header, that the command runs.
func (c *communicator) Start(_ context.Context, command *packersdk.RemoteCmd) error {
	ctx, cancel := context.WithCancel(c.ctx)
	stream, err := c.client.Start(ctx)
	if err != nil {
		cancel()
		return c.failed(err)
	}
	start := &contract.StartRequest{Message: &contract.StartRequest_Command{
		Command: &contract.StartCommand{CommunicatorId: c.id, Command: command.Command},
	}}
	// If the send fails, Recv has the reason.
	if err := stream.Send(start); err != nil && !errors.Is(err, io.EOF) {
		cancel()
		return c.failed(err)
	}
	go feed(stream, command.Stdin)
	// A failure to start comes as a status with no header before it; the call then ended without one.
	header, err := stream.Header()
	if err == nil && header == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		cancel()
		return c.failed(err)
	}
	go func() {
		defer cancel()
		c.follow(stream, command)
	}()
	return nil
}

// feed sends standard input and its end.
func feed(stream contract.Communicator_StartClient, input io.Reader) {
	defer stream.CloseSend()
	if input == nil {
		return
	}
	buffer := make([]byte, chunkSize)
	for {
		count, err := input.Read(buffer)
		if count > 0 {
			chunk := &contract.StartRequest{
				Message: &contract.StartRequest_Stdin{Stdin: buffer[:count]},
			}
			if stream.Send(chunk) != nil {
				// The command ended without reading all of it.
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				log.Printf("[WARN] communicator: standard input: %s", err)
			}
			return
		}
	}
}

// follow passes on the output and, last, the exit status.
func (c *communicator) follow(stream contract.Communicator_StartClient, command *packersdk.RemoteCmd) {
	stdout, stderr := &output{to: command.Stdout}, &output{to: command.Stderr}
	for {
		event, err := stream.Recv()
		if err != nil {
			// Packer's sign for a lost connection, with the reason for whoever reads along; after a cancel
			// everybody knows.
			if c.ctx.Err() == nil {
				fmt.Fprintf(stderr, "%s\n", c.failed(err))
			}
			command.SetExited(packersdk.CmdDisconnect)
			return
		}
		switch event := event.Event.(type) {
		case *contract.StartEvent_Stdout:
			stdout.Write(event.Stdout)
		case *contract.StartEvent_Stderr:
			stderr.Write(event.Stderr)
		case *contract.StartEvent_ExitStatus:
			command.SetExited(int(event.ExitStatus))
			return
		}
	}
}

// output drops what nobody reads any more: a command must not stop for it.
type output struct {
	to io.Writer
}

func (o *output) Write(data []byte) (int, error) {
	if o.to != nil {
		if _, err := o.to.Write(data); err != nil {
			log.Printf("[WARN] communicator: output is dropped from here on: %s", err)
			o.to = nil
		}
	}
	return len(data), nil
}

// Upload writes one file of the chroot.
func (c *communicator) Upload(remote string, content io.Reader, info *os.FileInfo) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	pipe, path, err := newPipe(toService)
	if err != nil {
		return err
	}
	defer pipe.close()
	header := &contract.UploadHeader{CommunicatorId: c.id, Remote: remote, Pipe: path}
	if info != nil && *info != nil {
		header.Mode = uint32((*info).Mode().Perm())
	}
	stream, err := c.client.Upload(ctx)
	if err != nil {
		return c.failed(err)
	}
	// Whether a message could be sent, the end of the call tells.
	stream.Send(&contract.UploadRequest{Message: &contract.UploadRequest_Header{Header: header}})
	ended := make(chan error, 1)
	go func() { ended <- stream.RecvMsg(new(contract.UploadResponse)) }()
	copied := make(chan error, 1)
	go func() { copied <- copyChunks(pipe.ours, content) }()
	select {
	case err = <-ended:
	case err = <-copied:
		if broken := (readError{}); errors.As(err, &broken) {
			// Cancelling tells the service that this was not the file's end.
			return fmt.Errorf("upload of %s: its content cannot be read: %w", remote, broken.cause)
		}
		if err == nil {
			stream.Send(&contract.UploadRequest{Message: &contract.UploadRequest_End{End: &contract.ContentEnd{}}})
		}
		stream.CloseSend()
		// Only our end: the service may have yet to open its own.
		pipe.ours.Close()
		err = <-ended
	}
	if err != nil {
		return c.failed(err)
	}
	return nil
}

// Download reads one file of the chroot.
func (c *communicator) Download(remote string, target io.Writer) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	pipe, path, err := newPipe(fromService)
	if err != nil {
		return err
	}
	defer pipe.close()
	ended := make(chan error, 1)
	go func() {
		request := &contract.DownloadRequest{CommunicatorId: c.id, Remote: remote, Pipe: path}
		_, err := c.client.Download(ctx, request)
		ended <- err
		// What is in the pipe is all that comes; after a failure nothing of it is wanted, and a service that
		// hangs may hold its end for ever.
		pipe.theirs.Close()
		if err != nil {
			pipe.ours.Close()
		}
	}()
	copied := copyChunks(target, pipe.ours)
	if copied != nil && !errors.As(copied, new(readError)) {
		return fmt.Errorf("download of %s: its content cannot be written: %w", remote, copied)
	}
	if err := <-ended; err != nil {
		return c.failed(err)
	}
	return copied
}

// UploadDir copies a tree of the host into the chroot.
func (c *communicator) UploadDir(remote string, local string, exclude []string) error {
	request, err := c.transfer(local, remote, local, exclude)
	if err != nil {
		return err
	}
	if _, err := c.client.UploadDir(c.ctx, request); err != nil {
		return c.failed(err)
	}
	return nil
}

// DownloadDir copies a tree of the chroot to the host.
func (c *communicator) DownloadDir(remote string, local string, exclude []string) error {
	request, err := c.transfer(remote, remote, local, exclude)
	if err != nil {
		return err
	}
	if _, err := c.client.DownloadDir(c.ctx, request); err != nil {
		return c.failed(err)
	}
	return nil
}

func (c *communicator) transfer(source, remote, local string, exclude []string) (*contract.TransferDirRequest, error) {
	absolute, err := filepath.Abs(local)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", local, err)
	}
	return &contract.TransferDirRequest{
		CommunicatorId: c.id,
		Local:          absolute,
		Remote:         remote,
		ContentsOnly:   strings.HasSuffix(source, "/"),
		Exclude:        exclude,
	}, nil
}

func (c *communicator) failed(err error) error {
	if c.ctx.Err() != nil {
		return errCancelled
	}
	return explain(err, c.service)
}
