package bundle

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cacheName = "packer-plugin-osc-chroot"

// Ensure gives the path of the service's executable, unpacked and checked.
func Ensure() (string, error) {
	hash := strings.TrimSpace(digest)
	if len(hash) < 16 {
		return "", fmt.Errorf("this build of the plugin is broken: its bundle has no hash")
	}
	var problems []error
	for _, base := range caches() {
		directory, err := ensureIn(base, hash, archive)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if err := checkHost(directory); err != nil {
			return "", err
		}
		return filepath.Join(directory, executableName), nil
	}
	return "", fmt.Errorf("the plugin's service was not unpacked: %w", oneLine(problems))
}

// caches lists the directories to try. HOME may be missing, read-only or, under sudo, another user's.
func caches() []string {
	var found []string
	if cache := os.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(cache) {
		found = append(found, filepath.Join(cache, cacheName))
	} else if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		found = append(found, filepath.Join(home, ".cache", cacheName))
	}
	if os.Geteuid() == 0 {
		found = append(found, filepath.Join("/var/cache", cacheName))
	}
	return append(found, filepath.Join(os.TempDir(), cacheName+"-"+strconv.Itoa(os.Geteuid())))
}

func oneLine(problems []error) error {
	texts := make([]string, len(problems))
	for i, problem := range problems {
		texts[i] = problem.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

// ensureIn gives the directory in base that holds the unpacked archive. One lock per base serialises
// whoever has to write; a directory that passes the check is used without it.
func ensureIn(base, hash string, archive []byte) (string, error) {
	if err := os.MkdirAll(filepath.Dir(base), 0o700); err != nil {
		return "", err
	}
	// Under `sudo -E` this may be a user's home directory: neither to be trusted by root nor to be
	// littered with root's files.
	if info, err := os.Stat(filepath.Dir(base)); err != nil {
		return "", err
	} else if !trusted(info) {
		return "", fmt.Errorf("%s belongs to another user", filepath.Dir(base))
	}
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	if err := checkOwn(base); err != nil {
		return "", err
	}
	directory := filepath.Join(base, hash)
	if check(directory) == nil {
		return directory, nil
	}
	unlock, err := lock(filepath.Join(base, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	// Only the holder of the lock makes these: what is here now was left by a process that is dead.
	leftovers, err := filepath.Glob(filepath.Join(base, "tmp-*"))
	if err != nil {
		return "", err
	}
	for _, leftover := range leftovers {
		os.RemoveAll(leftover)
	}
	broken := check(directory)
	if broken == nil {
		return directory, nil
	}
	began := time.Now()
	temporary, err := os.MkdirTemp(base, "tmp-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temporary)
	fresh := filepath.Join(temporary, "new")
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return "", err
	}
	if err := unpack(archive, fresh); err != nil {
		return "", fmt.Errorf("%s: %w", base, err)
	}
	if err := check(fresh); err != nil {
		return "", fmt.Errorf("%s: what was unpacked does not pass its own check: %w", base, err)
	}
	if !errors.Is(broken, os.ErrNotExist) {
		log.Printf("[WARN] %s is replaced: %s", directory, broken)
		if err := os.Rename(directory, filepath.Join(temporary, "old")); err != nil {
			return "", err
		}
	}
	if err := os.Rename(fresh, directory); err != nil {
		return "", err
	}
	log.Printf("[DEBUG] the service was unpacked to %s in %s", directory,
		time.Since(began).Round(time.Millisecond))
	return directory, nil
}

// lock takes a lock that the kernel releases when this process ends, however it does.
func lock(path string) (func(), error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}
