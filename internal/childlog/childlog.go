// Package childlog keeps the end of what a child process writes, for the message when it fails.
package childlog

import (
	"bytes"
	"io"
	"sync"
)

// Tail is an output of a process. The zero value is ready to use, by any number of goroutines.
type Tail struct {
	Also io.Writer // gets everything, too; nil: none
	mu   sync.Mutex
	buf  []byte
}

// size is how many bytes are kept.
const size = 4096

// Write implements [io.Writer].
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - size; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	if t.Also != nil {
		return t.Also.Write(p)
	}
	return len(p), nil
}

// Last is the last line.
func (t *Tail) Last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(t.buf)
	if len(text) == 0 {
		return "it wrote nothing"
	}
	return string(text[bytes.LastIndexByte(text, '\n')+1:])
}
