package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"time"
)

const (
	// DefaultPath is the socket of a daemon whose configuration names no other.
	DefaultPath = "/run/xnetfrontd/control.sock"
	// DefaultTimeout is the timeout of a Client that sets none.
	DefaultTimeout = 5 * time.Second
)

// Client asks a daemon. Each call makes a connection of its own: any number of goroutines may
// use one Client, and a restart of the daemon does not disturb it. The zero value is ready to
// use.
//
// A call without an answer fails with an error that wraps [ErrNoDaemon], or [fs.ErrPermission]
// if this process may not open the socket. A call that the daemon refuses fails with a
// [*RefusedError].
type Client struct {
	Path    string        // of the socket; empty means DefaultPath
	Timeout time.Duration // of a request and its response; 0 means DefaultTimeout
}

// ErrNoDaemon says that no daemon answers on the socket.
var ErrNoDaemon = errors.New("no daemon answers")

// RefusedError is the daemon's answer to a request that it refuses.
type RefusedError struct {
	Reason string // one line
}

func (e *RefusedError) Error() string { return e.Reason }

// Status returns the state of the daemon and its vifs.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	r, err := c.ask(ctx, Request{Op: OpStatus})
	if err != nil {
		return nil, err
	}
	if r.Status == nil {
		return nil, fmt.Errorf("control socket %s: answer without a status", c.path())
	}
	return r.Status, nil
}

// Dump returns the present state of a vif's rings. The name of the vif is its number, its MAC
// address or its TAP.
func (c *Client) Dump(ctx context.Context, vif string) (*Dump, error) {
	r, err := c.ask(ctx, Request{Op: OpDump, CaptureRequest: CaptureRequest{Vif: vif}})
	if err != nil {
		return nil, err
	}
	if r.Dump == nil {
		return nil, fmt.Errorf("control socket %s: answer without a dump", c.path())
	}
	return r.Dump, nil
}

// Kick makes the daemon notify the vif's backend and check all queues of the vif. That helps
// against an event that was lost. Kick returns before the queues are checked.
func (c *Client) Kick(ctx context.Context, vif string) error {
	_, err := c.ask(ctx, Request{Op: OpKick, CaptureRequest: CaptureRequest{Vif: vif}})
	return err
}

// Retry makes the daemon forget what the vif's backend has done. Then the daemon takes up a vif
// that is off, and a back-off ends. A present connection goes on.
func (c *Client) Retry(ctx context.Context, vif string) error {
	_, err := c.ask(ctx, Request{Op: OpRetry, CaptureRequest: CaptureRequest{Vif: vif}})
	return err
}

// Reload makes the daemon read its configuration again. When it returns nil, the configuration
// is in force: vifs of which nothing has changed go on without a disturbance, and the daemon
// begins to serve the others anew. A [*RefusedError] says that nothing changed, and why.
func (c *Client) Reload(ctx context.Context) error {
	_, err := c.ask(ctx, Request{Op: OpReload})
	return err
}

// Capture returns a pcapng stream of the frames that cross a vif's rings. The stream ends with
// io.EOF when the daemon or the vif ends, and with ctx's error when ctx ends. Client.Timeout
// does not limit it. While the reader is slower than the frames come, the daemon drops frames
// and counts them in the stream. It ends the stream if the reader reads nothing for half a
// minute.
func (c *Client) Capture(ctx context.Context, q CaptureRequest) (*Stream, error) {
	conn, rest, _, err := c.begin(ctx, Request{Op: OpCapture, CaptureRequest: q})
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket %s: %w", c.path(), err), conn.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return &Stream{ctx: ctx, stop: stop, in: rest, conn: conn}, nil
}

// Stream is a running capture. One goroutine may read while another calls Stop or Close.
type Stream struct {
	ctx  context.Context
	stop func() bool // ends the watch of ctx
	in   io.Reader
	conn net.Conn
}

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	if err != nil && s.ctx.Err() != nil {
		err = s.ctx.Err()
	}
	return n, err
}

// Stop asks the daemon to end the capture. The reader then gets what the daemon still has, with
// the counts at the end, up to io.EOF.
func (s *Stream) Stop() error {
	c, ok := s.conn.(*net.UnixConn)
	if !ok {
		return s.Close()
	}
	return c.CloseWrite()
}

// Close ends the capture.
func (s *Stream) Close() error {
	s.stop()
	return s.conn.Close()
}

func (c *Client) path() string {
	if c.Path == "" {
		return DefaultPath
	}
	return c.Path
}

func (c *Client) timeout() time.Duration {
	if c.Timeout == 0 {
		return DefaultTimeout
	}
	return c.Timeout
}

// ask makes one request on a connection of its own.
func (c *Client) ask(ctx context.Context, q Request) (*Response, error) {
	conn, _, r, err := c.begin(ctx, q)
	if err != nil {
		return nil, err
	}
	return r, conn.Close()
}

// begin makes a request and returns the connection, and in rest what follows the response on
// it. The deadline of the connection is that of the request.
func (c *Client) begin(ctx context.Context, q Request) (conn net.Conn, rest *bufio.Reader, r *Response, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	conn, err = new(net.Dialer).DialContext(ctx, "unix", c.path())
	if err != nil {
		return nil, nil, nil, explainDial(c.path(), err)
	}
	// The end of ctx ends every call that blocks on the connection.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	rest = bufio.NewReader(conn)
	r, err = exchange(conn, rest, q)
	// If stop is too late, the connection has a deadline in the past, and is of no use.
	if !stop() && err == nil {
		err = ctx.Err()
	}
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		err = fmt.Errorf("control socket %s: %w", c.path(), ctx.Err())
	case err != nil && ctx.Err() != nil:
		err = &socketError{"control socket " + c.path() + ": no answer in time: the daemon hangs, or has too much to do", []error{ErrNoDaemon, ctx.Err()}}
	case err != nil:
		err = fmt.Errorf("control socket %s: %w", c.path(), err)
	case r.Error != "":
		err = &RefusedError{r.Error}
	case r.Version != Version:
		err = fmt.Errorf("control socket %s: the daemon speaks version %d, this program %d; use the program it was started from", c.path(), r.Version, Version)
	default:
		return conn, rest, r, nil
	}
	return nil, nil, nil, errors.Join(err, conn.Close())
}

// exchange writes a request and reads its response.
func exchange(conn net.Conn, in *bufio.Reader, q Request) (*Response, error) {
	q.Version = Version
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoDaemon, err)
	}
	line, err := in.ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: it has closed the connection", ErrNoDaemon)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoDaemon, err)
	}
	var r Response
	if err := json.Unmarshal(line, &r); err != nil {
		return nil, fmt.Errorf("answer is not a line of JSON: %w", err)
	}
	return &r, nil
}

// socketError is why there is no answer, in words for the user of a program.
type socketError struct {
	text string
	is   []error // ErrNoDaemon or fs.ErrPermission, and the errors below
}

func (e *socketError) Error() string   { return e.text }
func (e *socketError) Unwrap() []error { return e.is }

func explainDial(path string, err error) error {
	socket := "control socket " + path + ": "
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &socketError{socket + "not there; no daemon runs, or it has another path (--control)", []error{ErrNoDaemon}}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &socketError{socket + "nobody listens; the daemon that made it is gone", []error{ErrNoDaemon}}
	case errors.Is(err, fs.ErrPermission):
		return &socketError{socket + "no permission; run as root or as a member of its group", []error{fs.ErrPermission}}
	}
	return fmt.Errorf("control socket: %w: %w", ErrNoDaemon, err)
}
