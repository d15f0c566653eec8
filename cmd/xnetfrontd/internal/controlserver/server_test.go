package controlserver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

func TestGarbageIsAnsweredAndTheServerGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	start(t, path, &daemon{}, defaultLimits())
	for _, g := range []struct{ send, want string }{
		{"\n", "request is not a line of JSON"},
		{"GET / HTTP/1.1\n", "request is not a line of JSON"},
		{"{\"version\":1,\"op\":\"status\"", ""}, // never ends
		{"[1,2,3]\n", "request is not a line of JSON"},
		{"{}\n", "request has version 0: this daemon speaks version 1"},
		{"{\"version\":2,\"op\":\"status\"}\n", "request has version 2"},
		{"{\"version\":1,\"op\":\"reboot\"}\n", "unknown op \"reboot\": this daemon knows status, dump, kick, retry, reload, capture"},
		{"{\"version\":1,\"op\":\"" + strings.Repeat("x", 1000) + "\"}\n", "unknown op \"xxx"},
		{"{\"version\":1,\"op\":\"dump\"}\n", "dump: the request names no vif"},
		{"{\"version\":1,\"op\":\"capture\"}\n", "capture: the request names no vif"},
		{"{\"version\":1,\"op\":\"status\",\"colour\":1}\n", "request has an unknown field \"colour\""},
		{"{\"version\":1,\"op\":\"status\"} {}\n", "request is not a line of JSON: something follows the object"},
		{"{\"version\":1,\"op\":7}\n", "request is not a line of JSON"},
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
	start(t, path, &daemon{}, defaultLimits())
	c := dial(t, path)
	for range 3 {
		if r := ask(t, c, "{\"version\":1,\"op\":\"status\"}\n"); r.Status == nil || r.Status.PID != 7 {
			t.Fatalf("%+v", r)
		}
	}
}

func TestCloseEndsConnectionsAndRemovesTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	s, err := New(path, &daemon{})
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
	start(t, path, &daemon{}, defaultLimits())
	if _, err := query(path); err != nil {
		t.Error(err)
	}
}

func TestLiveDaemonIsNamedByItsPID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	start(t, path, &daemon{}, defaultLimits())
	_, err := New(path, &daemon{})
	want := fmt.Sprintf("control socket %s: pid %d listens on it already; stop that one, or choose another path with --control", path, os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := query(path); err != nil {
		t.Errorf("the live daemon was disturbed: %v", err)
	}
}
