package builder

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/outscale/packer-plugin-osc-chroot/shim/internal/contract"
)

// BenchmarkTransfers moves what is in a directory of the host through a service that listens already,
// up into its root and down again: the file "big" and the tree "few". `make bench` starts that service
// and reads the times (see tests/bench/straight.py).
func BenchmarkTransfers(b *testing.B) {
	address, local := os.Getenv("OSC_CHROOT_BENCH_SERVICE"), os.Getenv("OSC_CHROOT_BENCH_LOCAL")
	if address == "" || local == "" {
		b.Fatal("OSC_CHROOT_BENCH_SERVICE (an address) and OSC_CHROOT_BENCH_LOCAL (a directory) are not set")
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	comm := &communicator{
		ctx: context.Background(), client: contract.NewCommunicatorClient(conn), service: &fakePython{}, id: "c",
	}
	big, few := filepath.Join(local, "big"), filepath.Join(local, "few")
	step := func(name string, do func() error) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	// Packer hands over streams, not files: what the kernel could copy by itself is out of reach.
	step("upload", func() error {
		source, err := os.Open(big)
		if err != nil {
			return err
		}
		defer source.Close()
		return comm.Upload("/big", struct{ io.Reader }{source}, nil)
	})
	step("download", func() error {
		target, err := os.Create(filepath.Join(local, "back"))
		if err != nil {
			return err
		}
		defer target.Close()
		return comm.Download("/big", struct{ io.Writer }{target})
	})
	step("upload_tree", func() error { return comm.UploadDir("/few", few+"/", nil) })
	step("download_tree", func() error { return comm.DownloadDir("/few/", filepath.Join(local, "few-back"), nil) })
}
