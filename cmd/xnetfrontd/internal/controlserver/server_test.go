package controlserver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// daemon is a Handler without anything behind it.
type daemon struct{}

func (daemon) Status() control.Status { return control.Status{PID: 7, Program: "test"} }

// query asks the server at path as our own commands do.
func query(path string) (*control.Status, error) {
	c := control.Client{Path: path}
	return c.Status(context.Background())
}

func start(t *testing.T, path string, timeout time.Duration) *Server {
	t.Helper()
	s, err := newServer(path, daemon{}, timeout)
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

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
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

func TestGarbageIsAnsweredAndTheServerGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	start(t, path, ioTimeout)
	for _, g := range []struct{ send, want string }{
		{"\n", "request is not a line of JSON"},
		{"GET / HTTP/1.1\n", "request is not a line of JSON"},
		{"{\"version\":1,\"op\":\"status\"", ""}, // never ends
		{"[1,2,3]\n", "request is not a line of JSON"},
		{"{}\n", "request has version 0: this daemon speaks version 1"},
		{"{\"version\":2,\"op\":\"status\"}\n", "request has version 2"},
		{"{\"version\":1,\"op\":\"reboot\"}\n", "unknown op \"reboot\""},
		{strings.Repeat("x", 3*control.MaxRequest), "request is longer than 4096 bytes"},
		{"\x00\xff\xfe\n", "request is not a line of JSON"},
	} {
		c := dial(t, path)
		if g.want == "" {
			if _, err := io.WriteString(c, g.send); err != nil {
				t.Fatal(err)
			}
			c.Close()
			continue
		}
		if r := ask(t, c, g.send); !strings.HasPrefix(r.Error, g.want) || r.Status != nil || r.Version != control.Version {
			t.Errorf("%.40q: got %+v, want error %q", g.send, r, g.want)
		}
	}
	if st, err := query(path); err != nil || st.PID != 7 {
		t.Errorf("after the garbage: %+v, %v", st, err)
	}
}

func TestSeveralRequestsOnOneConnection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	start(t, path, ioTimeout)
	c := dial(t, path)
	for range 3 {
		if r := ask(t, c, "{\"version\":1,\"op\":\"status\"}\n"); r.Status == nil || r.Status.PID != 7 {
			t.Fatalf("%+v", r)
		}
	}
}

func TestSilentClientIsCutOffAndDoesNotKeepOthersOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	start(t, path, 50*time.Millisecond)
	silent := make([]net.Conn, maxClients+3)
	for i := range silent {
		silent[i] = dial(t, path)
	}
	if _, err := query(path); err != nil {
		t.Fatal(err)
	}
	for i, c := range silent {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("client %d: %v, want EOF", i, err)
		}
	}
}

func TestCloseEndsConnectionsAndRemovesTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	s, err := New(path, daemon{})
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, path)
	ask(t, c, "{}\n")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("open connection: %v, want EOF", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after Close: %v", err)
	}
	_, err = query(path)
	if want := "control socket " + path + ": not there; no daemon runs, or it has another path (--control)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestSocketHasGroupAccessAndItsDirectoryIsMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "c.sock")
	start(t, path, ioTimeout)
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v; want 0660", fi.Mode(), err)
	}
}

func TestSocketOfADeadDaemonIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	_, err = query(path)
	if want := "control socket " + path + ": nobody listens; the daemon that made it is gone"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	start(t, path, ioTimeout)
	if _, err := query(path); err != nil {
		t.Error(err)
	}
}

func TestLiveDaemonIsNamedByItsPID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	start(t, path, ioTimeout)
	_, err := New(path, daemon{})
	want := fmt.Sprintf("control socket %s: pid %d listens on it already; stop that one, or choose another path with --control", path, os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := query(path); err != nil {
		t.Errorf("the live daemon was disturbed: %v", err)
	}
}

func TestFileThatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(path, daemon{}); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("file is now %q, %v", b, err)
	}
}

func TestCloseLeavesASuccessorsSocketAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	s, err := New(path, daemon{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	start(t, path, ioTimeout)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := query(path); err != nil {
		t.Errorf("the successor lost its socket: %v", err)
	}
}
