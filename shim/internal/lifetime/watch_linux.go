package lifetime

import (
	"errors"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pollPause is between two looks where the kernel does not tell.
const pollPause = 250 * time.Millisecond

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
	watch(parent, os.Getppid, func() { end("Packer") })
	grandparent, err := parentOf(parent)
	if err != nil || grandparent <= 0 || !sameExecutable(parent, grandparent) {
		return
	}
	current := func() int {
		pid, err := parentOf(parent)
		if err != nil {
			// Either the parent is gone, which has a watch of its own, or this is no news of anybody.
			return grandparent
		}
		return pid
	}
	watch(grandparent, current, func() { end("Packer's wrapper") })
}

// watch calls ended when the process ends. A pid is only a number: current tells, once the process is
// held by its pidfd, whether that was still the one meant; otherwise it is gone already.
func watch(pid int, current func() int, ended func()) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		go ended()
		return
	}
	if err != nil {
		// A kernel before 5.3, or a container whose seccomp filter does not know the call.
		log.Printf("[DEBUG] pidfd_open %d: %s: looking every %s instead", pid, err, pollPause)
		go poll(pid, current, ended)
		return
	}
	if current() != pid {
		unix.Close(fd)
		go ended()
		return
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
}

// poll looks whose child the process in between is. The kernel gives the children of a process that
// ends to another one at once, which is alive and so has another pid: a reused pid cannot mislead.
func poll(pid int, current func() int, ended func()) {
	for current() == pid {
		time.Sleep(pollPause)
	}
	ended()
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
