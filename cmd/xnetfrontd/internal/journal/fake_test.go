package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// journald listens as journald does. It reads an entry when it is asked to.
type journald struct {
	t    *testing.T
	path string
	fd   int
}

func newJournald(t *testing.T) *journald {
	t.Helper()
	j := &journald{t: t, path: filepath.Join(t.TempDir(), "socket")}
	var err error
	if j.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(j.fd) })
	if err := unix.Bind(j.fd, &unix.SockaddrUnix{Name: j.path}); err != nil {
		t.Fatal(err)
	}
	limit := unix.NsecToTimeval(int64(10 * time.Second))
	if err := unix.SetsockoptTimeval(j.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	return j
}

// dial connects to it.
func (j *journald) dial() *Socket {
	j.t.Helper()
	s, err := Dial(j.path)
	if err != nil {
		j.t.Fatal(err)
	}
	j.t.Cleanup(func() { _ = s.Close() })
	return s
}

// read returns the next entry, and whether it came as a file.
func (j *journald) read() (entry map[string]string, file bool) {
	j.t.Helper()
	b, oob := make([]byte, 1<<20), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(j.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		j.t.Fatalf("no entry came: %v", err)
	}
	if oobn == 0 {
		return j.parse(b[:n]), false
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		j.t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		j.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "entry")
	defer func() { _ = f.Close() }()
	have, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || have != seals || n != 0 {
		j.t.Errorf("a file with the seals %#x (%v) and %d bytes beside it: journald takes none such", have, err, n)
	}
	content, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		j.t.Fatal(err)
	}
	return j.parse(content), true
}

// drained tells whether nothing is left to read.
func (j *journald) drained() bool {
	_, _, err := unix.Recvfrom(j.fd, make([]byte, 1), unix.MSG_DONTWAIT|unix.MSG_PEEK)
	return errors.Is(err, unix.EAGAIN)
}

// parse reads the native format. A field that comes twice is an error.
func (j *journald) parse(b []byte) map[string]string {
	j.t.Helper()
	entry := map[string]string{}
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			j.t.Fatalf("a field without an end: %q", b)
		}
		name, value, short := bytes.Cut(b[:end], []byte("="))
		b = b[end+1:]
		if !short {
			n := binary.LittleEndian.Uint64(b)
			if uint64(len(b)) < 8+n+1 || b[8+n] != '\n' {
				j.t.Fatalf("%s has %d bytes, it says, and %d follow", name, n, len(b)-8)
			}
			value, b = b[8:8+n], b[8+n+1:]
		}
		if _, twice := entry[string(name)]; twice {
			j.t.Errorf("the field %s comes twice", name)
		}
		entry[string(name)] = string(value)
	}
	return entry
}
