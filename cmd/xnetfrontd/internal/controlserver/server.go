// Package controlserver is the daemon's end of the control socket; pkg/control says
// what is spoken there.
package controlserver

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

const (
	// ioTimeout is how long a client may take over a request and its response.
	ioTimeout = 5 * time.Second
	// maxClients is how many are served at once; further ones wait for accept.
	maxClients = 16
)

// Handler is the daemon. Several goroutines call it at a time.
type Handler interface {
	Status() control.Status
}

// Server answers on a control socket.
type Server struct {
	ln      *listener
	handler Handler
	timeout time.Duration // of a request with its response
	slots   chan struct{}

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // nil once closed
	served sync.WaitGroup
}

// New makes the socket at path, with mode 0660, and answers on it until Close.
func New(path string, h Handler) (*Server, error) {
	return newServer(path, h, ioTimeout)
}

func newServer(path string, h Handler, timeout time.Duration) (*Server, error) {
	ln, err := listen(path)
	if err != nil {
		return nil, err
	}
	s := &Server{
		ln:      ln,
		handler: h,
		timeout: timeout,
		slots:   make(chan struct{}, maxClients),
		conns:   map[net.Conn]struct{}{},
	}
	s.served.Go(s.accept)
	return s, nil
}

// Close removes the socket, ends every connection and waits for what is under way.
func (s *Server) Close() error {
	err := s.ln.Close()
	s.mu.Lock()
	for c := range s.conns {
		// The goroutine that serves it closes it again, which is harmless.
		err = errors.Join(err, c.Close())
	}
	s.conns = nil
	s.mu.Unlock()
	s.served.Wait()
	return err
}

func (s *Server) accept() {
	for {
		s.slots <- struct{}{}
		conn, err := s.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors or memory: others may give some back.
			<-s.slots
			time.Sleep(100 * time.Millisecond)
			continue
		}
		if !s.track(conn) {
			return
		}
		s.served.Go(func() {
			defer func() { <-s.slots }()
			s.serve(conn)
		})
	}
}

// track remembers conn for Close. It reports false when Close was faster.
func (s *Server) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		conn.Close()
		return false
	}
	s.conns[conn] = struct{}{}
	return true
}

// serve answers requests until the client goes, is too slow, or breaks the framing.
// Its errors are the client's and go nowhere.
func (s *Server) serve(conn net.Conn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		conn.Close()
	}()
	in := bufio.NewReaderSize(conn, control.MaxRequest)
	for {
		if conn.SetDeadline(time.Now().Add(s.timeout)) != nil {
			return
		}
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			send(conn, &control.Response{Error: fmt.Sprintf("request is longer than %d bytes", control.MaxRequest)})
			return
		}
		if err != nil {
			return
		}
		if !send(conn, s.answer(line)) {
			return
		}
	}
}

func (s *Server) answer(line []byte) *control.Response {
	var q control.Request
	if err := json.Unmarshal(line, &q); err != nil {
		return &control.Response{Error: fmt.Sprintf("request is not a line of JSON: %v", err)}
	}
	if q.Version != control.Version {
		return &control.Response{Error: fmt.Sprintf("request has version %d: this daemon speaks version %d", q.Version, control.Version)}
	}
	switch q.Op {
	case control.OpStatus:
		st := s.handler.Status()
		return &control.Response{Status: &st}
	default:
		return &control.Response{Error: fmt.Sprintf("unknown op %q: this daemon knows %q", q.Op, control.OpStatus)}
	}
}

func send(w io.Writer, r *control.Response) bool {
	r.Version = control.Version
	return json.NewEncoder(w).Encode(r) == nil
}
