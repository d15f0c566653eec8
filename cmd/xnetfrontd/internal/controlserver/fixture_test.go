package controlserver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// daemon is a Handler with one vif, "0", and nothing behind it.
type daemon struct {
	large   bool // its answer is larger than a socket's buffer
	kicks   atomic.Int32
	retries atomic.Int32
	reload  func(ctx context.Context) error // nil: nothing to do
	capture func(ctx context.Context, w io.Writer) error
	panics  []string // of one request at a time
}

var errNoVif = errors.New(`no vif "7": the daemon has vif 0`)

func (d *daemon) Status() control.Status {
	s := control.Status{PID: 7, Program: "test"}
	if d.large {
		s.Program = strings.Repeat("x", 1<<22)
	}
	return s
}

func (d *daemon) Dump(_ context.Context, vif string) (*control.Dump, error) {
	if vif != "0" {
		return nil, errNoVif
	}
	return &control.Dump{TAP: "xnf0"}, nil
}

func (d *daemon) Kick(vif string) error {
	if vif != "0" {
		return errNoVif
	}
	d.kicks.Add(1)
	return nil
}

func (d *daemon) Retry(vif string) error {
	if vif != "0" {
		return errNoVif
	}
	d.retries.Add(1)
	return nil
}

func (d *daemon) Reload(ctx context.Context) error {
	if d.reload == nil {
		return nil
	}
	return d.reload(ctx)
}

func (d *daemon) Panicked(op string, value any) error {
	d.panics = append(d.panics, fmt.Sprintf("%s: %v", op, value))
	return errors.New("a fault of the daemon")
}

func (d *daemon) Capture(ctx context.Context, q control.CaptureRequest, w io.Writer) error {
	if q.Vif != "0" {
		return errNoVif
	}
	return d.capture(ctx, w)
}

// needNumber leaves the test out if this process has no user number in its user namespace: the
// server lets such a user change nothing.
func needNumber(t *testing.T) {
	t.Helper()
	if u := newUsers(); u.own == u.overflow {
		needs.LeaveOut(t, "a user with a number of its own (not the kernel's overflowuid)")
	}
}

func start(t *testing.T, path string, h Handler, l limits) *Server {
	t.Helper()
	needNumber(t)
	s, err := newServer(path, h, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// query asks the server at path as the program's commands do.
func query(path string) (*control.Status, error) {
	c := control.Client{Path: path, Timeout: time.Minute}
	return c.Status(context.Background())
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask writes raw bytes and returns the line that comes back.
func ask(t *testing.T, c net.Conn, raw string) control.Response {
	t.Helper()
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadBytes('\n')
	if err != nil {
		t.Fatalf("no answer to %.40q: %v", raw, err)
	}
	var r control.Response
	if err := json.Unmarshal(line, &r); err != nil {
		t.Fatalf("answer %q: %v", line, err)
	}
	return r
}

// wantEOF waits for the server's end of a connection.
func wantEOF(t *testing.T, c net.Conn) {
	t.Helper()
	// If the server did not read all that the client sent, the end is a reset.
	if _, err := io.Copy(io.Discard, c); err != nil && !isReset(err) {
		t.Errorf("%v, want the end of the connection", err)
	}
}
