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

// unpack extracts the archive into an empty directory that only this process writes, and puts its
// manifest there, last.
func unpack(archive []byte, directory string) error {
	// The decoder works ahead of the writing in goroutines of its own.
	decoder, err := zstd.NewReader(bytes.NewReader(archive))
	if err != nil {
		return fmt.Errorf("the bundle is damaged: %w", err)
	}
	defer decoder.Close()

	extractor := extractor{
		directory: directory,
		made:      map[string]bool{".": true},
		buffer:    make([]byte, 256<<10),
	}
	var content manifest
	entries := tar.NewReader(decoder)
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
		info, err := extractor.extract(name, header, entries)
		if err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
		entry, err := describe(directory, name, info)
		if err != nil {
			return err
		}
		content.Entries = append(content.Entries, entry)
	}
	return content.write(directory)
}

type extractor struct {
	directory string
	// made are the directories that were created here. Whatever is extracted goes into one of these, so
	// that neither a name nor a symbolic link leads elsewhere.
	made   map[string]bool
	buffer []byte
}

func (e *extractor) extract(name string, header *tar.Header, content io.Reader) (fs.FileInfo, error) {
	if !e.made[filepath.Dir(name)] {
		return nil, errors.New("the archive has no such directory")
	}
	path := filepath.Join(e.directory, name)
	// Nobody else may write what this user runs.
	mode := header.FileInfo().Mode().Perm() &^ 0o022
	switch header.Typeflag {
	case tar.TypeDir:
		if err := os.Mkdir(path, mode|0o700); err != nil {
			return nil, err
		}
		e.made[name] = true
	case tar.TypeSymlink:
		if err := os.Symlink(header.Linkname, path); err != nil {
			return nil, err
		}
	case tar.TypeReg:
		return e.write(path, mode|0o400, content)
	default:
		return nil, fmt.Errorf("unexpected kind of entry %q", header.Typeflag)
	}
	return os.Lstat(path)
}

func (e *extractor) write(path string, mode fs.FileMode, content io.Reader) (fs.FileInfo, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// The wrapper hides ReadFrom, which would not use the buffer.
	if _, err := io.CopyBuffer(struct{ io.Writer }{file}, content, e.buffer); err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return info, file.Close()
}
