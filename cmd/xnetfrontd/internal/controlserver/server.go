// Package controlserver is the daemon's end of the control socket. pkg/control describes the
// protocol.
package controlserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/localsocket"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// Handler answers the requests. Several goroutines call it at a time. The client gets an
// error's text. Each ctx ends when the server is closed. That of all methods but Capture also
// ends shortly before the client stops to wait.
type Handler interface {
	Status() control.Status
	Dump(ctx context.Context, vif string) (*control.Dump, error)
	Kick(vif string) error
	Retry(vif string) error
	// Reload returns when the new configuration is in force, or fails.
	Reload(ctx context.Context) error
	// Capture writes a pcapng stream to w until ctx ends, or a Write fails. ctx also ends when
	// the client is gone. Capture returns an error of the request before the first Write; the
	// client does not get a later error. A Write blocks while the client does not read, so no
	// worker of a queue may call it.
	Capture(ctx context.Context, q control.CaptureRequest, w io.Writer) error
	// Panicked takes the value of a panic in one of the other methods, and returns the error
	// for the client. The stack still shows the panic when it is called.
	Panicked(op string, value any) error
}

// limits bound the work for clients.
type limits struct {
	request time.Duration // that a client may take to write a request, and to read a response
	handler time.Duration // that the daemon may take for it
	stall   time.Duration // that a client may read nothing of a stream
	clients int           // of each kind, those that may write and the others, at a time
	streams int           // captures at a time
}

func defaultLimits() limits {
	return limits{
		request: 5 * time.Second,
		// Less than a client waits, so that the client gets the error.
		handler: control.DefaultTimeout - time.Second,
		stall:   30 * time.Second,
		clients: 16,
		streams: 4,
	}
}

// acceptPause is the wait after an accept failed for want of descriptors or memory.
const acceptPause = 100 * time.Millisecond

// Server answers requests on a control socket.
type Server struct {
	ln      *localsocket.Listener
	handler Handler
	limits  limits
	users   users
	ctx     context.Context // ends with the server
	end     context.CancelFunc
	served  sync.WaitGroup

	clients clients
}

// New makes the socket at path, with mode 0660, and answers on it until Close. It fails with a
// [*localsocket.InUseError] if another daemon listens there.
func New(path string, h Handler) (*Server, error) {
	return newServer(path, h, defaultLimits())
}

func newServer(path string, h Handler, l limits) (*Server, error) {
	ln, err := localsocket.Listen(path, localsocket.Name{What: "control socket", Setting: "--control"})
	if err != nil {
		return nil, err
	}
	s := &Server{ln: ln, handler: h, limits: l, users: newUsers()}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.clients.max = l.clients
	s.clients.streams = l.streams
	s.served.Go(s.accept)
	return s, nil
}

// Close removes the socket, ends every connection and waits for the requests that are being
// answered.
func (s *Server) Close() error {
	err := s.ln.Close()
	s.end()
	err = errors.Join(err, s.clients.close())
	s.served.Wait()
	return err
}

func (s *Server) accept() {
	for {
		conn, err := s.ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(acceptPause):
			}
			continue
		}
		cred, err := localsocket.Credentials(conn)
		if err != nil {
			conn.Close()
			continue
		}
		c := &client{conn: conn, peer: s.users.peer(cred.Uid), limits: s.limits}
		if err := s.clients.admit(c); err != nil {
			c.refuse(err)
			continue
		}
		s.served.Go(func() {
			defer s.clients.leave(c)
			s.serve(c)
		})
	}
}

// serve answers requests until the client goes, is too slow, breaks the framing, or has to
// give its place up. There is nobody to report its errors to.
func (s *Server) serve(c *client) {
	for {
		line, err := c.request()
		if err != nil {
			return
		}
		// From here on the client waits for the daemon.
		if !s.clients.begin(c) {
			return
		}
		q, err := parse(line)
		if err == nil {
			err = check(&q, c.peer)
		}
		if err == nil && q.Op == control.OpCapture {
			s.capture(c, q.CaptureRequest)
			return
		}
		var r control.Response
		if err == nil {
			r, err = s.answer(q)
			if err != nil && s.ctx.Err() != nil {
				err = errClosed // the cause, whatever the error says
			}
		}
		if err != nil {
			r = control.Response{Error: printable.Error(err)}
		}
		if !s.clients.done(c) || !c.respond(r) {
			return
		}
	}
}

// answer carries out a request.
func (s *Server) answer(q control.Request) (r control.Response, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.limits.handler)
	defer cancel()
	defer s.guard(q.Op, &err)
	switch q.Op {
	case control.OpStatus:
		st := s.handler.Status()
		r.Status = &st
	case control.OpDump:
		r.Dump, err = s.handler.Dump(ctx, q.Vif)
	case control.OpKick:
		err = s.handler.Kick(q.Vif)
	case control.OpRetry:
		err = s.handler.Retry(q.Vif)
	case control.OpReload:
		err = s.handler.Reload(ctx)
	default:
		err = fmt.Errorf("%s: not done here", q.Op) // check has refused such an op
	}
	return r, err
}

// capture gives the connection to a capture.
func (s *Server) capture(c *client, q control.CaptureRequest) {
	if err := s.clients.stream(c); err != nil {
		c.respond(control.Response{Error: printable.Error(err)})
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	w, gone := c.stream(cancel)
	w.finish(s.captureTo(ctx, q, w))
	c.conn.Close()
	<-gone
}

func (s *Server) captureTo(ctx context.Context, q control.CaptureRequest, w io.Writer) (err error) {
	defer s.guard(control.OpCapture, &err)
	return s.handler.Capture(ctx, q, w)
}

// guard, deferred, makes an error of a panic in this goroutine. So a fault in an answer costs
// the client the answer, and no vif a frame.
func (s *Server) guard(op string, err *error) {
	if p := recover(); p != nil {
		*err = s.handler.Panicked(op, p)
	}
}
