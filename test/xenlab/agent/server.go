package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/wire"
)

// server does what requests say.
type server struct {
	mu       sync.Mutex
	detached map[int]*command       // by pid, ended ones too: somebody may still ask
	relayed  map[string]*sync.Mutex // by terminal: one relay at a time takes its bytes
}

func newServer() *server {
	return &server{detached: map[int]*command{}, relayed: map[string]*sync.Mutex{}}
}

// handle serves one stream and closes it.
func (s *server) handle(ctx context.Context, stream net.Conn) {
	defer stream.Close()
	m := wire.NewMessages(stream)
	r, err := wire.ReceiveJSON[wire.Request](m, wire.KindRequest)
	if err == nil {
		err = s.serve(ctx, r, m, stream)
	}
	if err != nil {
		// Fails if the client has gone, and then nobody needs it.
		_ = m.Send(wire.KindFailed, []byte(printable.Error(err)))
	}
}

func (s *server) serve(ctx context.Context, r wire.Request, m *wire.Messages, stream net.Conn) error {
	switch {
	case r.Exec != nil:
		return s.exec(r.Exec, m)
	case r.Wait != 0:
		return s.wait(ctx, r.Wait, m)
	case r.Read != "":
		return readFile(r.Read, m)
	case r.Write != nil:
		return writeFile(r.Write, m)
	case r.Relay != "":
		return s.relay(r.Relay, m, stream)
	}
	return errors.New("an empty request")
}

// wait waits for the end of a detached command.
func (s *server) wait(ctx context.Context, pid int, m *wire.Messages) error {
	s.mu.Lock()
	c := s.detached[pid]
	s.mu.Unlock()
	if c == nil {
		return fmt.Errorf("process %d is no detached command of this agent", pid)
	}
	select {
	case <-c.ended:
		return wire.SendJSON(m, wire.KindExited, c.exited)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// piece is how much of a file goes into one message.
const piece = 32 << 10

func readFile(path string, m *wire.Messages) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, piece)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if err := m.Send(wire.KindData, buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return m.Send(wire.KindEnd, nil)
		}
		if err != nil {
			return err
		}
	}
}

// writeFile writes a file so that it appears whole, or, where there is nothing to
// rename, as it is.
func writeFile(w *wire.Write, m *wire.Messages) error {
	to, mode := w.Path, fs.FileMode(w.Mode).Perm()
	inPlace := strings.HasPrefix(to, "/proc/") || strings.HasPrefix(to, "/sys/") || strings.HasPrefix(to, "/dev/")
	flags := os.O_WRONLY
	if !inPlace {
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		to += ".new"
		flags |= os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(to, flags, mode)
	if err != nil {
		return err
	}
	err = errors.Join(receiveInto(f, m), f.Close())
	if err == nil && !inPlace {
		err = errors.Join(os.Chmod(to, mode), os.Rename(to, w.Path)) // a umask does not count
	}
	if err != nil {
		if !inPlace {
			err = errors.Join(err, os.Remove(to))
		}
		return err
	}
	return m.Send(wire.KindEnd, nil)
}

func receiveInto(f *os.File, m *wire.Messages) error {
	for {
		k, b, err := m.Receive()
		if err != nil {
			return err
		}
		switch k {
		case wire.KindEnd:
			return nil
		case wire.KindData:
			if _, err := f.Write(b); err != nil {
				return err
			}
		default:
			return fmt.Errorf("a message of kind %d in a file", k)
		}
	}
}

// relay carries a terminal's bytes until either side ends.
func (s *server) relay(path string, m *wire.Messages, stream net.Conn) error {
	s.mu.Lock()
	turn := s.relayed[path]
	if turn == nil {
		turn = new(sync.Mutex)
		s.relayed[path] = turn
	}
	s.mu.Unlock()
	turn.Lock()
	defer turn.Unlock()
	f, err := openRaw(path)
	if err != nil {
		return err
	}
	if err := wire.SendJSON(m, wire.KindStarted, wire.Started{}); err != nil {
		return errors.Join(err, f.Close())
	}
	ended := make(chan struct{}, 2)
	carry := func(to io.Writer, from io.Reader) {
		// An error is an end: the domain has gone, or the client.
		_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, piece))
		ended <- struct{}{}
	}
	go carry(f, stream)
	go carry(stream, f)
	<-ended
	_ = errors.Join(f.Close(), stream.Close()) // ends the other one
	<-ended
	return nil
}
