package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

const testHash = "0123456789abcdef0123456789abcdef"

// This test binary is also the process that unpacks and is killed meanwhile.
const envUnpack = "SHIM_TEST_UNPACK_TO"

func TestMain(m *testing.M) {
	if base := os.Getenv(envUnpack); base != "" {
		content, err := pack(30 << 20)
		if err == nil {
			_, err = ensureIn(base, testHash, content)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// pack makes a bundle with that much of libraries inside.
func pack(size int) ([]byte, error) {
	var packed bytes.Buffer
	compressor, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	archive := tar.NewWriter(compressor)
	add := func(header tar.Header, content []byte) {
		header.Size = int64(len(content))
		if err == nil {
			err = archive.WriteHeader(&header)
		}
		if err == nil {
			_, err = archive.Write(content)
		}
	}
	add(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o777}, nil)
	add(tar.Header{Name: "./" + executableName, Typeflag: tar.TypeReg, Mode: 0o775}, []byte("#!/bin/sh\necho \"$@\"\n"))
	add(tar.Header{Name: "bundle.json", Typeflag: tar.TypeReg, Mode: 0o644}, []byte(`{"glibc": "2.17"}`))
	add(tar.Header{Name: "_internal/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	part := bytes.Repeat([]byte("0123456789abcdef"), 64<<10/16)
	for i := range max(1, size/len(part)) {
		add(tar.Header{Name: fmt.Sprintf("_internal/lib%d.so.1", i), Typeflag: tar.TypeReg, Mode: 0o755}, part)
	}
	add(tar.Header{Name: "_internal/lib.so", Typeflag: tar.TypeSymlink, Linkname: "lib0.so.1"}, nil)
	if err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	if err := compressor.Close(); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}

func mustPack(t *testing.T, size int) []byte {
	t.Helper()
	content, err := pack(size)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// mustEnsure unpacks, runs what was unpacked and checks that nothing else is in the cache.
func mustEnsure(t *testing.T, base string, content []byte) string {
	t.Helper()
	directory, err := ensureIn(base, testHash, content)
	if err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command(filepath.Join(directory, executableName), "hello").Output()
	if err != nil || string(output) != "hello\n" {
		t.Fatalf("%s %v", output, err)
	}
	entries, err := os.ReadDir(base)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Name() != testHash && entry.Name() != "lock" {
			t.Errorf("left over: %s", entry.Name())
		}
	}
	return directory
}

func TestUnpacksOnce(t *testing.T) {
	base := filepath.Join(t.TempDir(), "deep", "cache")
	content := mustPack(t, 0)
	directory := mustEnsure(t, base, content)
	first, err := os.Stat(directory)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(base, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode()&fs.ModeSymlink == 0 && info.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s can be written by others: %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// A second start needs no archive.
	mustEnsure(t, base, nil)
	if second, err := os.Stat(directory); err != nil || !os.SameFile(first, second) {
		t.Errorf("it was unpacked again (%v)", err)
	}
}

// A home directory may be called anything; what a dead process left goes from there too.
func TestCacheWithAPatternInItsName(t *testing.T) {
	base := filepath.Join(t.TempDir(), "a[b", "cache")
	if err := os.MkdirAll(filepath.Join(base, "tmp-1", "new"), 0o700); err != nil {
		t.Fatal(err)
	}
	mustEnsure(t, base, mustPack(t, 0))
}

func TestBrokenOnesAreReplaced(t *testing.T) {
	content := mustPack(t, 0)
	library := filepath.Join("_internal", "lib0.so.1")
	for name, breakIt := range map[string]func(directory string) error{
		"missing file":       func(d string) error { return os.Remove(filepath.Join(d, library)) },
		"missing manifest":   func(d string) error { return os.Remove(filepath.Join(d, manifestName)) },
		"broken manifest":    func(d string) error { return os.WriteFile(filepath.Join(d, manifestName), []byte("{"), 0o600) },
		"empty manifest":     func(d string) error { return os.WriteFile(filepath.Join(d, manifestName), []byte("{}"), 0o600) },
		"truncated file":     func(d string) error { return os.Truncate(filepath.Join(d, library), 5) },
		"writable file":      func(d string) error { return os.Chmod(filepath.Join(d, library), 0o777) },
		"not executable":     func(d string) error { return os.Chmod(filepath.Join(d, executableName), 0o644) },
		"writable directory": func(d string) error { return os.Chmod(d, 0o777) },
		"another link": func(d string) error {
			link := filepath.Join(d, "_internal", "lib.so")
			return errors.Join(os.Remove(link), os.Symlink("/etc/passwd", link))
		},
		"a link to elsewhere": func(d string) error {
			elsewhere := d + ".elsewhere"
			return errors.Join(os.Rename(d, elsewhere), os.Symlink(elsewhere, d), os.RemoveAll(elsewhere))
		},
		"a file in its place": func(d string) error {
			return errors.Join(os.RemoveAll(d), os.WriteFile(d, nil, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			base := filepath.Join(t.TempDir(), "cache")
			directory := mustEnsure(t, base, content)
			if err := breakIt(directory); err != nil {
				t.Fatal(err)
			}
			if check(directory) == nil {
				t.Error("the check passes")
			}
			mustEnsure(t, base, content)
		})
	}
}

func TestPlantedDirectories(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root, to play another user")
	}
	content := mustPack(t, 0)
	const nobody = 65534
	// What another user put there is replaced.
	base := filepath.Join(t.TempDir(), "cache")
	directory := mustEnsure(t, base, content)
	if err := os.Chown(filepath.Join(directory, executableName), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if err := check(directory); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("%v", err)
	}
	mustEnsure(t, base, content)
	// A cache of another user, or one that others can write, is not used at all.
	for _, c := range []struct {
		want  string
		spoil func() error
	}{
		{"another user", func() error { return os.Chown(base, nobody, nobody) }},
		{"written by other users", func() error { return errors.Join(os.Chown(base, 0, 0), os.Chmod(base, 0o777)) }},
		{"symbolic link", func() error {
			return errors.Join(os.Chmod(base, 0o700), os.Rename(base, base+"2"), os.Symlink(base+"2", base))
		}},
	} {
		if err := c.spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := ensureIn(base, testHash, content); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.want, err)
		}
	}
	home := t.TempDir()
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	for _, base := range []string{filepath.Join(home, "cache"), filepath.Join(home, ".cache", "deep", "cache")} {
		want := home + " belongs to another user"
		if _, err := ensureIn(base, testHash, content); err == nil || err.Error() != want {
			t.Errorf("%v", err)
		}
		if made, err := os.ReadDir(home); err != nil || len(made) > 0 {
			t.Errorf("littered: %v %v", made, err)
		}
	}
}

func TestUnusedVersionsAreRemoved(t *testing.T) {
	base := filepath.Join(t.TempDir(), "cache")
	content := mustPack(t, 0)
	long := time.Now().Add(-unusedFor - time.Hour)
	for _, version := range []string{"unused", "used", "recent"} {
		directory, err := ensureIn(base, version, content)
		if err != nil {
			t.Fatal(err)
		}
		if version == "recent" {
			continue
		}
		if err := os.Chtimes(directory, long, long); err != nil {
			t.Fatal(err)
		}
		if version == "used" {
			if _, err := ensureIn(base, version, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := ensureIn(base, testHash, content); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(base)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, entry := range entries {
		left = append(left, entry.Name())
	}
	if got := strings.Join(left, " "); got != testHash+" lock recent used" {
		t.Error(got)
	}
}

func TestRace(t *testing.T) {
	base := filepath.Join(t.TempDir(), "cache")
	content := mustPack(t, 1<<20)
	var racers sync.WaitGroup
	for range 8 {
		racers.Go(func() {
			directory, err := ensureIn(base, testHash, content)
			if err == nil {
				err = check(directory)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	racers.Wait()
	mustEnsure(t, base, nil)
}

func TestKillHalfway(t *testing.T) {
	content := mustPack(t, 0)
	base := filepath.Join(t.TempDir(), "cache")
	for range 3 {
		command := exec.Command(os.Args[0])
		command.Env = append(os.Environ(), envUnpack+"="+base)
		command.Stderr = os.Stderr
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		// Wait until it is at work, then kill it there.
		for deadline := time.Now().Add(time.Minute); ; {
			if found, _ := filepath.Glob(filepath.Join(base, "tmp-*", "new", "_internal", "lib1*")); len(found) > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("it never began to unpack")
			}
			time.Sleep(time.Millisecond)
		}
		command.Process.Signal(syscall.SIGKILL)
		command.Wait()
		if err := os.RemoveAll(filepath.Join(base, testHash)); err != nil {
			t.Fatal(err)
		}
	}
	mustEnsure(t, base, content)
}

func TestUnpackRefuses(t *testing.T) {
	for want, header := range map[string]tar.Header{
		"no such directory": {Name: "../out", Typeflag: tar.TypeReg, Mode: 0o644},
		"unexpected kind":   {Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o644},
	} {
		var packed bytes.Buffer
		compressor, err := zstd.NewWriter(&packed)
		if err != nil {
			t.Fatal(err)
		}
		archive := tar.NewWriter(compressor)
		if err := errors.Join(archive.WriteHeader(&header), archive.Close(), compressor.Close()); err != nil {
			t.Fatal(err)
		}
		base := filepath.Join(t.TempDir(), "cache")
		if _, err := ensureIn(base, testHash, packed.Bytes()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	base := filepath.Join(t.TempDir(), "cache")
	content := mustPack(t, 1<<20)
	if _, err := ensureIn(base, testHash, content[:len(content)/2]); err == nil || !strings.Contains(err.Error(), "unexpected EOF") {
		t.Errorf("%v", err)
	}
	mustEnsure(t, base, content)
}

func TestCaches(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "/home/u")
	t.Setenv("TMPDIR", "/t")
	found := caches()
	if found[0] != "/home/u/.cache/packer-plugin-osc-chroot" || found[len(found)-1] != fmt.Sprintf("/t/packer-plugin-osc-chroot-%d", os.Geteuid()) {
		t.Errorf("%v", found)
	}
	t.Setenv("XDG_CACHE_HOME", "/x")
	if found := caches(); found[0] != "/x/packer-plugin-osc-chroot" {
		t.Errorf("%v", found)
	}
	t.Setenv("XDG_CACHE_HOME", "relative")
	t.Setenv("HOME", "")
	if found := caches(); strings.Contains(found[0], ".cache") || !filepath.IsAbs(found[0]) {
		t.Errorf("%v", found)
	}
}

func TestGlibc(t *testing.T) {
	var here string
	for _, candidates := range libcs {
		for _, candidate := range candidates {
			if _, err := os.Stat(candidate); err == nil {
				here = candidate
			}
		}
	}
	found, err := glibcOf(here)
	if err != nil || found.major != 2 || found.minor < 17 {
		t.Fatalf("%s: %v %v", here, found, err)
	}
	if err := checkGlibc(found.String(), []string{"/nonexistent", here}); err != nil {
		t.Errorf("%v", err)
	}
	next := glibc{found.major, found.minor + 1}
	want := fmt.Sprintf("this plugin needs glibc %s or newer, this host has %s (%s)", next, found, here)
	if err := checkGlibc(next.String(), []string{here}); err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	// A release that defines no symbol version of its own.
	library := filepath.Join(t.TempDir(), "libc.so.6")
	text := "\x00GNU C Library (Debian GLIBC 2.31-13+deb11u11) stable release version 2.31.\n\x00"
	if err := os.WriteFile(library, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if release := releaseOf(library, glibc{2, 30}); release != (glibc{2, 31}) {
		t.Errorf("%v", release)
	}
	if err := checkGlibc("2.x", nil); err == nil {
		t.Error("2.x is a version")
	}
}

// A version that looks unused may be discarded while it is being checked: it is marked as used before.
func TestMarkedBeforeTheCheck(t *testing.T) {
	base := filepath.Join(t.TempDir(), "cache")
	content := mustPack(t, 0)
	directory := mustEnsure(t, base, content)
	// The check waits in here until somebody writes.
	pipe := filepath.Join(directory, manifestName)
	if err := errors.Join(os.Remove(pipe), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-unusedFor - time.Hour)
	if err := os.Chtimes(directory, long, long); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := ensureIn(base, testHash, content)
		ended <- err
	}()
	marked := false
	for deadline := time.Now().Add(5 * time.Second); !marked && time.Now().Before(deadline); {
		info, err := os.Stat(directory)
		if err != nil {
			t.Fatal(err)
		}
		marked = time.Since(info.ModTime()) < time.Hour
		time.Sleep(time.Millisecond)
	}
	if !marked {
		t.Error("not marked while it is checked")
	}
	writer, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(pipe), writer.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
