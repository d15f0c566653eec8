//go:build linux

package xen

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEvtchnRequestsAreTheKernels(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"BIND_UNBOUND_PORT", evtchnBindUnbound, 0x00044502},
		{"UNBIND", evtchnUnbind, 0x00044503},
		{"NOTIFY", evtchnNotify, 0x00044504},
	} {
		if c.got != c.want {
			t.Errorf("IOCTL_EVTCHN_%s is %#08x, want %#08x", c.name, c.got, c.want)
		}
	}
	if portSize != 4 {
		t.Errorf("a port has %d bytes in the device's file, want 4", portSize)
	}
}

// newFakeEventFile is an event file on one end of a socket pair, which takes and gives
// bytes as the device does but knows none of its requests.
func newFakeEventFile(t *testing.T) (f *Evtchn, peer int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f = &Evtchn{fd: fds[0]}
	t.Cleanup(func() {
		f.Close()
		unix.Close(fds[1])
	})
	return f, fds[1]
}

func TestReadOfNothingPendingIsNoError(t *testing.T) {
	f, _ := newFakeEventFile(t)
	var ports [4]Port
	if n, err := f.Read(ports[:]); n != 0 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	if n, err := f.Read(nil); n != 0 || err != nil {
		t.Errorf("read into nothing: %d, %v", n, err)
	}
}

func TestReadReturnsPortsInOrderAndKeepsTheRest(t *testing.T) {
	f, peer := newFakeEventFile(t)
	var b []byte
	for port := uint32(8); port < 14; port++ {
		b = binary.NativeEndian.AppendUint32(b, port)
	}
	if _, err := unix.Write(peer, b); err != nil {
		t.Fatal(err)
	}
	var ports [4]Port
	if n, err := f.Read(ports[:]); n != 4 || err != nil || ports != [4]Port{8, 9, 10, 11} {
		t.Errorf("first read: %d, %v, %v", n, err, ports)
	}
	if n, err := f.Read(ports[:]); n != 2 || err != nil || ports[0] != 12 || ports[1] != 13 {
		t.Errorf("second read: %d, %v, %v", n, err, ports)
	}
}

func TestReadRefusesPartOfAPort(t *testing.T) {
	f, peer := newFakeEventFile(t)
	if _, err := unix.Write(peer, []byte{1, 0, 0, 0, 2, 0}); err != nil {
		t.Fatal(err)
	}
	var ports [4]Port
	if n, err := f.Read(ports[:]); n != 0 || err == nil {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestUnmaskWritesThePort(t *testing.T) {
	f, peer := newFakeEventFile(t)
	if err := f.Unmask(0x01020304); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	n, err := unix.Read(peer, b)
	if err != nil || n != 4 || binary.NativeEndian.Uint32(b) != 0x01020304 {
		t.Errorf("device got % x, %v", b[:max(n, 0)], err)
	}
}

func TestFailedRequestsNameThePort(t *testing.T) {
	f, _ := newFakeEventFile(t) // a socket answers ENOTTY
	if err := f.Notify(7); !errors.Is(err, unix.ENOTTY) || err.Error() != "notify port 7: inappropriate ioctl for device" {
		t.Errorf("notify: %v", err)
	}
	if err := f.Unbind(7); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("unbind: %v", err)
	}
	if port, err := f.Bind(3); port != 0 || !errors.Is(err, unix.ENOTTY) {
		t.Errorf("bind: %d, %v", port, err)
	}
}

func TestForeignPortIsErrNotBound(t *testing.T) {
	if err := portError("notify", 9, unix.ENOTCONN); !errors.Is(err, ErrNotBound) {
		t.Errorf("ENOTCONN became %v", err)
	}
}

func TestEventFileIsUselessAfterClose(t *testing.T) {
	f, _ := newFakeEventFile(t)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var ports [1]Port
	_, readErr := f.Read(ports[:])
	_, bindErr := f.Bind(0)
	for name, err := range map[string]error{
		"notify": f.Notify(1), "read": readErr, "bind": bindErr,
		"unmask": f.Unmask(1), "unbind": f.Unbind(1),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after close: %v", name, err)
		}
	}
	if err := f.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if f.FD() != -1 {
		t.Errorf("descriptor %d after close", f.FD())
	}
}

func TestEventPathAllocatesNothing(t *testing.T) {
	f, peer := newFakeEventFile(t)
	event := binary.NativeEndian.AppendUint32(nil, 8)
	var ports [8]Port
	back := make([]byte, 4)
	if allocs := testing.AllocsPerRun(200, func() {
		unix.Write(peer, event)
		n, err := f.Read(ports[:])
		if n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if err := f.Unmask(ports[0]); err != nil {
			t.Fatal(err)
		}
		unix.Read(peer, back)
	}); allocs != 0 {
		t.Errorf("%v allocations for a read and an unmask", allocs)
	}
}
