package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const manifestName = ".manifest.json"

// manifest lists everything that was unpacked. It is written last: a directory without one was left
// unfinished.
type manifest struct {
	Entries []entry `json:"entries"`
}

type entry struct {
	Path string      `json:"path"`
	Mode fs.FileMode `json:"mode"`
	// Size is of files, Link of symbolic links.
	Size int64  `json:"size,omitempty"`
	Link string `json:"link,omitempty"`
}

func describe(directory, name string, info fs.FileInfo) (entry, error) {
	found := entry{Path: name, Mode: info.Mode()}
	switch {
	case info.Mode().IsRegular():
		found.Size = info.Size()
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(filepath.Join(directory, name))
		if err != nil {
			return entry{}, err
		}
		found.Link = link
	}
	return found, nil
}

func (m manifest) write(directory string) error {
	content, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(directory, manifestName), content, 0o600)
}

// check says what is wrong with an unpacked directory: not ours, open to others, incomplete, changed.
func check(directory string) error {
	if err := checkOwn(directory); err != nil {
		return err
	}
	path := filepath.Join(directory, manifestName)
	if err := checkOwn(path); err != nil {
		return asBroken(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return asBroken(err)
	}
	var known manifest
	if err := json.Unmarshal(content, &known); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	executable := false
	for _, want := range known.Entries {
		full := filepath.Join(directory, want.Path)
		info, err := os.Lstat(full)
		if err != nil {
			return asBroken(err)
		}
		if !trusted(info) {
			return fmt.Errorf("%s belongs to another user", full)
		}
		found, err := describe(directory, want.Path, info)
		if err != nil {
			return asBroken(err)
		}
		if found != want {
			return fmt.Errorf("%s was changed after it was unpacked", full)
		}
		executable = executable || want.Path == executableName && want.Mode&0o100 != 0
	}
	if !executable {
		return fmt.Errorf("%s holds no executable %s", directory, executableName)
	}
	return nil
}

// asBroken keeps a missing part from being taken for a missing whole.
func asBroken(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New(err.Error())
	}
	return err
}

// checkOwn wants a file or directory, not a symbolic link, that only this user (or root) can write.
func checkOwn(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is a symbolic link", path)
	case !trusted(info):
		return fmt.Errorf("%s belongs to another user", path)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by other users", path)
	}
	return nil
}

func trusted(info fs.FileInfo) bool {
	status, ok := info.Sys().(*syscall.Stat_t)
	return ok && (status.Uid == 0 || int(status.Uid) == os.Geteuid())
}
