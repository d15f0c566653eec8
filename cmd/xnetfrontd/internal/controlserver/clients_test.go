package controlserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

func isReset(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// patient are limits that no test reaches.
func patient() limits {
	l := defaultLimits()
	l.request, l.handler, l.stall = time.Hour, time.Hour, time.Hour
	return l
}

func TestSilentClientIsCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l := defaultLimits()
	l.request = 50 * time.Millisecond
	start(t, path, &daemon{}, l)
	silent, slow := dial(t, path), dial(t, path)
	if _, err := slow.Write([]byte(`{"version":1,`)); err != nil {
		t.Fatal(err)
	}
	wantEOF(t, silent)
	wantEOF(t, slow)
}

func TestClientThatReadsNoResponseIsCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l := defaultLimits()
	l.request = 50 * time.Millisecond
	s := start(t, path, &daemon{large: true}, l)
	c := dial(t, path)
	if _, err := c.Write([]byte("{\"version\":1,\"op\":\"status\"}\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil { // now it has its place
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); s.clients.count() > 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it has its place still")
		}
	}
}

func TestClientThatClosesItsSideGetsItsAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	start(t, path, &daemon{}, patient())
	c := dial(t, path).(*net.UnixConn)
	if _, err := c.Write([]byte("{\"version\":1,\"op\":\"status\"}\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || !bytes.Contains(b, []byte(`"pid":7`)) {
		t.Errorf("%q, %v", b, err)
	}
}

// count is the number of clients.
func (l *clients) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.list)
}

func TestClientsThatHangKeepNobodyOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l := patient()
	start(t, path, &daemon{}, l)
	hanging := make([]net.Conn, 3*l.clients)
	for i := range hanging {
		hanging[i] = dial(t, path)
	}
	if _, err := query(path); err != nil {
		t.Fatal(err)
	}
	for _, c := range hanging[:2*l.clients] {
		wantEOF(t, c) // to make room for the others
	}
}

func TestClientThatAsksAgainAndAgainMakesRoomToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l := patient()
	start(t, path, &daemon{}, l)
	busy := make([]net.Conn, l.clients)
	for i := range busy {
		busy[i] = dial(t, path)
		ask(t, busy[i], "{\"version\":1,\"op\":\"status\"}\n")
	}
	for range 2 * l.clients {
		if _, err := query(path); err != nil {
			t.Fatal(err)
		}
	}
}

// pair is a client of the list, and its other end.
func pair(t *testing.T, l *clients, writer bool) (*client, error) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		conns[i] = connOf(t, fd)
	}
	c := &client{conn: conns[0], peer: peer{writer: writer}, limits: patient()}
	return c, l.admit(c)
}

func TestReadersKeepNoWriterOutNorOneAnother(t *testing.T) {
	l := &clients{max: 2, streams: 1}
	a, _ := pair(t, l, false)
	b, _ := pair(t, l, false)
	if !l.begin(a) || !l.begin(b) {
		t.Fatal("not admitted")
	}
	if _, err := pair(t, l, false); err == nil || err.Error() != "2 requests are being answered already: try again" {
		t.Errorf("third reader: %v", err)
	}
	w, err := pair(t, l, true)
	if err != nil || !l.begin(w) {
		t.Fatalf("writer: %v", err)
	}
	if !l.done(b) {
		t.Fatal("the reader that was busy had to go")
	}
	if _, err := pair(t, l, false); err != nil {
		t.Errorf("third reader, when one has been answered: %v", err)
	}
	if l.begin(b) || !l.done(a) {
		t.Error("the wrong one had to make room")
	}
}

func TestCapturesLeaveRoomForOtherRequestsOfRoot(t *testing.T) {
	l := &clients{max: 2, streams: 1}
	a, _ := pair(t, l, true)
	b, _ := pair(t, l, true)
	if !l.begin(a) || l.stream(a) != nil || !l.begin(b) {
		t.Fatal("the first capture is refused")
	}
	if err := l.stream(b); err == nil || err.Error() != "1 captures run already: end one of them" {
		t.Errorf("second capture: %v", err)
	}
	if !l.done(b) {
		t.Fatal("gone")
	}
	if _, err := pair(t, l, true); err != nil {
		t.Errorf("beside a capture: %v", err)
	}
	l.leave(a)
	c, err := pair(t, l, true)
	if err != nil || !l.begin(c) || l.stream(c) != nil {
		t.Errorf("no capture when the first has ended: %v", err)
	}
}

func TestNobodyIsAdmittedWhenTheServerIsClosed(t *testing.T) {
	l := &clients{max: 2, streams: 1}
	a, _ := pair(t, l, true)
	if err := l.close(); err != nil {
		t.Error(err)
	}
	if _, err := pair(t, l, true); !errors.Is(err, errClosed) {
		t.Errorf("%v", err)
	}
	if l.begin(a) {
		t.Error("a client of before goes on")
	}
}

func TestCancelledCallEndsAtOnceThoughTheDaemonHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	ctx, cancel := context.WithCancel(t.Context())
	d := &daemon{reload: func(handler context.Context) error {
		cancel()
		<-handler.Done()
		return handler.Err()
	}}
	start(t, path, d, patient())
	c := control.Client{Path: path, Timeout: time.Hour}
	if err := c.Reload(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
}
