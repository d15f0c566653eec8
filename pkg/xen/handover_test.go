//go:build linux

package xen

import (
	"bytes"
	"encoding/gob"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// left is what a process leaves to the next one, beside the descriptors.
type left struct {
	Index uint64
	Refs  []GrantRef
	Port  Port // delivered, and not unmasked
	Far   Port // its other end, in the second event file
}

// TestRealPagesAndPortsOutliveKilledOwner is two processes: the test and a child that
// owns pages and a channel, passes their handles on and is killed.
func TestRealPagesAndPortsOutliveKilledOwner(t *testing.T) {
	if os.Getenv("XEN_TEST_OWNER") != "" {
		ownAndHang(t)
	}
	realGrants(t) // or skip
	realEvents(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "theirs")
	child := exec.Command(os.Args[0], "-test.run=^TestRealPagesAndPortsOutliveKilledOwner$", "-test.v")
	child.Env = append(os.Environ(), "XEN_TEST_OWNER=1")
	child.ExtraFiles = []*os.File{theirs}
	var output bytes.Buffer
	child.Stdout, child.Stderr = &output, &output
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	ours := os.NewFile(uintptr(pair[0]), "ours")
	defer ours.Close()
	l, fds := receive(t, ours)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	child.Wait()
	if len(fds) != 3 {
		t.Fatalf("%d descriptors; the child says:\n%s", len(fds), output.String())
	}

	g, err := AdoptGntalloc(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	pages, err := g.Remap(l.Index, l.Refs)
	if err != nil {
		t.Fatal(err)
	}
	if want := bytes.Repeat([]byte{0xa5}, 3*PageSize); !bytes.Equal(pages.Bytes(), want) {
		t.Error("the pages are not those of the killed owner")
	}
	if err := pages.Free(); err != nil {
		t.Error(err)
	}
	if _, err := g.Remap(l.Index, l.Refs); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remap of freed pages: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}

	near, err := AdoptEvtchn(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	far, err := AdoptEvtchn(fds[2])
	if err != nil {
		t.Fatal(err)
	}
	if err := far.Notify(l.Far); err != nil {
		t.Errorf("notify by the adopted port: %v", err)
	}
	if pending(t, near, 50) {
		t.Error("a port that was delivered to the killed owner is not masked")
	}
	if err := near.Unmask(l.Port); err != nil {
		t.Error(err)
	}
	var ports [2]Port
	if !pending(t, near, 5000) {
		t.Error("no event after the adopted port was unmasked")
	} else if n, err := near.Read(ports[:]); n != 1 || err != nil || ports[0] != l.Port {
		t.Errorf("read %d, %v, %v, want port %d", n, err, ports, l.Port)
	}
	if err := errors.Join(near.Close(), far.Close()); err != nil {
		t.Error(err)
	}
}

// ownAndHang is the child.
func ownAndHang(t *testing.T) {
	g, near, far := realGrants(t), realEvents(t), realEvents(t)
	granted, err := g.Alloc(0, 3, true)
	if err != nil {
		t.Fatal(err)
	}
	pages := granted.(*GntallocPages)
	for i := range pages.Bytes() {
		pages.Bytes()[i] = 0xa5
	}
	l := left{Index: pages.Index(), Refs: pages.Refs()}
	l.Port, l.Far = realChannel(t, near, far)
	var ports [1]Port
	if err := far.Notify(l.Far); err != nil {
		t.Fatal(err)
	}
	if !pending(t, near, 5000) {
		t.Fatal("no event")
	}
	if n, err := near.Read(ports[:]); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	var fds []int
	for _, handle := range []func() (int, error){g.Handle, near.Handle, far.Handle} {
		fd, err := handle()
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(l); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(3, b.Bytes(), unix.UnixRights(fds...), nil, 0); err != nil {
		t.Fatal(err)
	}
	select {} // until killed
}

func receive(t *testing.T, from *os.File) (l left, fds []int) {
	t.Helper()
	conn, err := net.FileConn(from)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b, oob := make([]byte, 4096), make([]byte, 256)
	n, oobn, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return l, nil // the child failed, and its output says why
	}
	if fds, err = unix.ParseUnixRights(&messages[0]); err != nil {
		t.Fatal(err)
	}
	if err := gob.NewDecoder(bytes.NewReader(b[:n])).Decode(&l); err != nil {
		t.Fatal(err)
	}
	return l, fds
}
