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

const (
	cacheName = "packer-plugin-osc-chroot"
	// What is being unpacked is in directories of such names.
	temporaryPrefix = "tmp-"
	// After this long without a use an unpacked version is removed by the next one that is unpacked.
	unusedFor = 30 * 24 * time.Hour
)

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
	if err := makeParent(filepath.Dir(base)); err != nil {
		return "", err
	}
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	if err := checkOwn(base); err != nil {
		return "", err
	}
	directory := filepath.Join(base, hash)
	// Marked before the check: another version, unpacked just now, may be discarding what looks unused.
	markUsed(directory)
	if check(directory) == nil {
		return directory, nil
	}
	unlock, err := lock(filepath.Join(base, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	// Only the holder of the lock makes these: what is here now was left by a process that is dead.
	entries, err := os.ReadDir(base)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), temporaryPrefix) {
			os.RemoveAll(filepath.Join(base, entry.Name()))
		}
	}
	markUsed(directory)
	broken := check(directory)
	if broken == nil {
		return directory, nil
	}
	began := time.Now()
	temporary, err := os.MkdirTemp(base, temporaryPrefix)
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
	markUsed(directory)
	discardUnused(base, temporary)
	log.Printf("[DEBUG] the service was unpacked to %s in %s", directory,
		time.Since(began).Round(time.Millisecond))
	return directory, nil
}

// makeParent makes a directory where it is missing. Under `sudo -E` this may be a user's home directory:
// neither to be trusted by root nor to be littered with root's files, hence the look at what exists
// before anything is made in it.
func makeParent(directory string) error {
	info, err := os.Stat(directory)
	if errors.Is(err, os.ErrNotExist) {
		if err := makeParent(filepath.Dir(directory)); err != nil {
			return err
		}
		if err := os.Mkdir(directory, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		info, err = os.Stat(directory)
	}
	if err != nil {
		return err
	}
	if !trusted(info) {
		return fmt.Errorf("%s belongs to another user", directory)
	}
	return nil
}

// markUsed sets the time that discardUnused goes by. In a cache that cannot be written nothing is
// discarded either.
func markUsed(directory string) {
	now := time.Now()
	if err := os.Chtimes(directory, now, now); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Printf("[DEBUG] the use of %s is not recorded: %s", directory, err)
	}
}

// discardUnused moves the other versions that nobody has used for long into a directory that is about
// to be removed. A failure costs disk space only.
func discardUnused(base, bin string) {
	others, err := os.ReadDir(base)
	if err != nil {
		return
	}
	for _, other := range others {
		info, err := other.Info()
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < unusedFor {
			continue
		}
		if os.Rename(filepath.Join(base, other.Name()), filepath.Join(bin, other.Name())) == nil {
			log.Printf("[DEBUG] %s of %s is removed: unused since %s", other.Name(), base,
				info.ModTime().Format(time.DateOnly))
		}
	}
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
