package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// unpack extracts the archive into an empty directory and writes its manifest there, last.
func unpack(archive []byte, directory string) error {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return err
	}
	defer root.Close()
	// The decoder works ahead of the writing in goroutines of its own.
	decoder, err := zstd.NewReader(bytes.NewReader(archive))
	if err != nil {
		return fmt.Errorf("the bundle is damaged: %w", err)
	}
	defer decoder.Close()

	var content manifest
	entries := tar.NewReader(decoder)
	buffer := make([]byte, 256<<10)
	for {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("the bundle is damaged: %w", err)
		}
		name := filepath.Clean(header.Name)
		if name == "." {
			continue
		}
		if err := extract(root, name, header, entries, buffer); err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		entry, err := describe(directory, name, info)
		if err != nil {
			return err
		}
		content.Entries = append(content.Entries, entry)
	}
	return content.write(directory)
}

func extract(root *os.Root, name string, header *tar.Header, content io.Reader, buffer []byte) error {
	// Nobody else may write what this user runs.
	mode := header.FileInfo().Mode().Perm() &^ 0o022
	switch header.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return root.Chmod(name, mode|0o700)
	case tar.TypeSymlink:
		return root.Symlink(header.Linkname, name)
	case tar.TypeReg:
		file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		// The wrapper hides ReadFrom, which would not use the buffer.
		if _, err := io.CopyBuffer(struct{ io.Writer }{file}, content, buffer); err != nil {
			file.Close()
			return err
		}
		if err := file.Chmod(mode | 0o400); err != nil {
			file.Close()
			return err
		}
		return file.Close()
	}
	return fmt.Errorf("unexpected kind of entry %q", header.Typeflag)
}
