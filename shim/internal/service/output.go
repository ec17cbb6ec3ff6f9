package service

import (
	"bytes"
	"log"
	"strings"
	"sync"
)

const (
	// A longer line is passed on in pieces: what the service prints must not fill our memory.
	maxLine = 64 << 10
	// What an error about a dead service shows of its stderr.
	tailLines = 12
)

// lines is a writer that hands over whole lines.
type lines struct {
	handle  func(string)
	pending []byte
}

func (l *lines) Write(data []byte) (int, error) {
	l.pending = append(l.pending, data...)
	for {
		end := bytes.IndexByte(l.pending, '\n')
		if end < 0 {
			break
		}
		l.handle(strings.TrimRight(string(l.pending[:end]), "\r"))
		l.pending = l.pending[end+1:]
	}
	if len(l.pending) > maxLine {
		l.flush()
	}
	return len(data), nil
}

func (l *lines) flush() {
	if len(l.pending) > 0 {
		l.handle(string(l.pending))
		l.pending = nil
	}
}

// tail keeps the last lines it was given.
type tail struct {
	mutex sync.Mutex
	kept  []string
}

func (t *tail) add(line string) {
	log.Printf("service: %s", line)
	if strings.TrimSpace(line) == "" {
		return
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.kept = append(t.kept, line)
	if len(t.kept) > tailLines {
		t.kept = t.kept[len(t.kept)-tailLines:]
	}
}

func (t *tail) String() string {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	return strings.Join(t.kept, "\n")
}
