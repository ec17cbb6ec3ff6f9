package lifetime

import (
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// WatchParent calls gone, once, when the process that started this one ends, or when that one's own
// parent does and both run the same executable (packer and its wrapper). It returns at once.
func WatchParent(gone func()) {
	var once sync.Once
	end := func(who string) {
		once.Do(func() {
			log.Printf("[INFO] %s is gone: ending", who)
			gone()
		})
	}
	parent := os.Getppid()
	if err := watch(parent, func() int { return os.Getppid() }, func() { end("Packer") }); err != nil {
		log.Printf("[WARN] Packer's end cannot be watched: %s", err)
		return
	}
	grandparent, err := parentOf(parent)
	if err != nil || grandparent <= 0 || !sameExecutable(parent, grandparent) {
		return
	}
	current := func() int {
		pid, err := parentOf(parent)
		if err != nil {
			return 0
		}
		return pid
	}
	if err := watch(grandparent, current, func() { end("Packer's wrapper") }); err != nil {
		log.Printf("[WARN] the end of Packer's wrapper cannot be watched: %s", err)
	}
}

// watch calls ended when the process ends. A pid is only a number: current tells, once the process is
// held by its pidfd, whether that was still the one meant; otherwise it is gone already.
func watch(pid int, current func() int, ended func()) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		go ended()
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	if current() != pid {
		unix.Close(fd)
		go ended()
		return nil
	}
	go func() {
		defer unix.Close(fd)
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		ended()
	}()
	return nil
}

// parentOf reads a process's parent from /proc.
func parentOf(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "PPid:"); found {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, fmt.Errorf("/proc/%d/status names no parent", pid)
}

func sameExecutable(a, b int) bool {
	first, err := os.Stat(fmt.Sprintf("/proc/%d/exe", a))
	if err != nil {
		return false
	}
	second, err := os.Stat(fmt.Sprintf("/proc/%d/exe", b))
	return err == nil && os.SameFile(first, second)
}
