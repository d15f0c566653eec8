package xenstore

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inTime fails the test instead of letting it hang when ch does not come.
func inTime[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s does not come", what)
		panic("unreachable")
	}
}

func TestCloseEndsAReadOfTheDeviceUnderWay(t *testing.T) {
	// A FIFO can be polled, as the device can. What is written to it comes back.
	path := filepath.Join(t.TempDir(), "xenbus")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := openDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	if value, err := c.Read(t.Context(), "/echo"); value != "/echo\x00" || err != nil {
		t.Errorf("echo %q, %v", value, err)
	}
	// The device's buffer of 4096 bytes holds the header, too.
	value := strings.Repeat("v", MaxPayload-HeaderSize-len("/a\x00")+1)
	if err := c.Write(t.Context(), "/a", value); !errors.Is(err, ErrTooBig) {
		t.Errorf("value too long for the device: %v", err)
	}
	if err := inTime(t, "close", startErr(c.Close)); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := c.Read(t.Context(), "/a"); !errors.Is(err, ErrClosed) {
		t.Errorf("read: %v", err)
	}
}

func TestFileThatCannotBePolledIsNotADevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xenbus")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := openDevice(path); !errors.Is(err, os.ErrNoDeadline) || !strings.Contains(err.Error(), "open xenstore: poll "+path) {
		t.Errorf("%v, %v", c, err)
	}
	if c, err := openDevice(path + "-missing"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, %v", c, err)
	}
}

func TestSocketOfXenstored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	if c, err := Dial(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "connect to xenstored: ") {
		t.Errorf("no socket: %v, %v", c, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := start(l.Accept)
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn := inTime(t, "connection", accepted)
	if conn.err != nil {
		t.Fatal(conn.err)
	}
	p := &peer{t, conn.value}
	defer p.Close()

	read := start(func() (string, error) { return c.Read(t.Context(), "/a") })
	p.reply(p.expect(TypeRead, "/a\x00"), "value")
	if r := inTime(t, "reply", read); r.value != "value" || r.err != nil {
		t.Errorf("got %q, %v", r.value, r.err)
	}
	// A server that does not answer is no reason for Close to wait.
	write := startErr(func() error { return c.Write(t.Context(), "/a", "value") })
	p.expect(TypeWrite, "/a\x00value")
	if err := inTime(t, "close", startErr(c.Close)); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := inTime(t, "error", write); !errors.Is(err, ErrClosed) {
		t.Errorf("write: %v", err)
	}
}
