package bundle

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// description is the bundle's own bundle.json.
type description struct {
	// Glibc is the lowest version that its executables run with.
	Glibc string `json:"glibc"`
}

// Where distributions keep the C library, by architecture.
var libcs = map[string][]string{
	"amd64": {
		"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib64/libc.so.6",
		"/usr/lib/libc.so.6",
	},
	"arm64": {
		"/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib64/libc.so.6",
		"/usr/lib/libc.so.6",
	},
}

// checkHost compares the host's C library with what the bundle needs: the dynamic loader's own message
// about it is long and names neither the cause nor the cure.
func checkHost(directory string) error {
	path := filepath.Join(directory, descriptionName)
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var needs description
	if err := json.Unmarshal(content, &needs); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return checkGlibc(needs.Glibc, libcs[runtime.GOARCH])
}

func checkGlibc(needed string, candidates []string) error {
	floor, ok := parseGlibc(needed)
	if !ok {
		return fmt.Errorf("the bundle names no glibc version but %q", needed)
	}
	for _, candidate := range candidates {
		found, err := glibcOf(candidate)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			// Only a clear answer stops the build: the loader has the last word.
			log.Printf("[WARN] %s: %s", candidate, err)
			return nil
		}
		if found.less(floor) {
			return fmt.Errorf("this plugin needs glibc %s or newer, this host has %s (%s)",
				floor, releaseOf(candidate, found), candidate)
		}
		return nil
	}
	if loaders, _ := filepath.Glob("/lib*/ld-linux-*.so.*"); len(loaders) == 0 {
		return fmt.Errorf("this plugin needs glibc %s or newer, this host has none", floor)
	}
	return nil
}

// banner is in every C library, for those who run it as a program.
var banner = regexp.MustCompile(`GNU C Library [^\n]*release version (\d+\.\d+)`)

// releaseOf gives the version that users know a C library by. Some releases, such as 2.31, define no
// symbol version of their own.
func releaseOf(path string, symbols glibc) glibc {
	content, err := os.ReadFile(path)
	if err != nil {
		return symbols
	}
	if found := banner.FindSubmatch(content); found != nil {
		if release, ok := parseGlibc(string(found[1])); ok {
			return release
		}
	}
	return symbols
}

type glibc struct{ major, minor int }

func (g glibc) String() string { return fmt.Sprintf("%d.%d", g.major, g.minor) }

func (g glibc) less(other glibc) bool {
	return g.major < other.major || g.major == other.major && g.minor < other.minor
}

// parseGlibc reads 2.36 and, of a patch release, 2.2.5.
func parseGlibc(text string) (glibc, bool) {
	parts := strings.Split(text, ".")
	if len(parts) < 2 {
		return glibc{}, false
	}
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return glibc{}, false
	}
	minor, err := strconv.Atoi(parts[1])
	return glibc{major, minor}, err == nil
}

// glibcOf gives the newest symbol version that a C library defines: what the loader compares.
func glibcOf(path string) (glibc, error) {
	library, err := elf.Open(path)
	if err != nil {
		return glibc{}, err
	}
	defer library.Close()
	versions, err := library.DynamicVersions()
	if err != nil {
		return glibc{}, err
	}
	var newest glibc
	for _, version := range versions {
		text, found := strings.CutPrefix(version.Name, "GLIBC_")
		if !found {
			continue
		}
		if parsed, ok := parseGlibc(text); ok && newest.less(parsed) {
			newest = parsed
		}
	}
	if newest == (glibc{}) {
		return glibc{}, errors.New("it defines no GLIBC version")
	}
	return newest, nil
}
