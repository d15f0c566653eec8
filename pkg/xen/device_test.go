//go:build linux

package xen

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// The tests of this file need the real devices of a Xen guest, and skip elsewhere.
// They talk to the guest itself, so that no backend is needed.

// domidSelf is DOMID_SELF of xen/include/public/xen.h.
const domidSelf = 0x7ff0

func realGrants(t *testing.T) *Gntalloc {
	t.Helper()
	g, err := openGntalloc(gntallocPath, gntallocLimit)
	if err != nil {
		needs.LeaveOut(t, "a Xen guest, and root")
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func realEvents(t *testing.T) *Evtchn {
	t.Helper()
	f, err := eventDevice{path: evtchnPath}.Open()
	if err != nil {
		needs.LeaveOut(t, "a Xen guest, and root")
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f.(*Evtchn)
}

// realChannel is an event channel from the guest to itself.
func realChannel(t *testing.T, near, far *Evtchn) (nearPort, farPort Port) {
	t.Helper()
	nearPort, err := near.Bind(domidSelf)
	if err != nil {
		t.Fatal(err)
	}
	// IOCTL_EVTCHN_BIND_INTERDOMAIN, which a frontend never needs.
	arg := [2]uint32{domidSelf, uint32(nearPort)}
	port, err := ioctl(far.fd, 8<<16|'E'<<8|1, unsafe.Pointer(&arg))
	if err != nil {
		t.Fatal(err)
	}
	// Binding raises an event at either end, as the device's way to say hello.
	drain(near)
	drain(far)
	return nearPort, Port(port)
}

// pending tells whether an event comes within the time.
func pending(t *testing.T, f *Evtchn, milliseconds int) bool {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}}, milliseconds)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n == 1
	}
}

func drain(f *Evtchn) {
	var ports [8]Port
	for {
		n, err := f.Read(ports[:])
		if n == 0 || err != nil {
			return
		}
		for _, port := range ports[:n] {
			f.Unmask(port)
		}
	}
}

func TestRealOpenGivesAllThreeDevices(t *testing.T) {
	g, err := Open()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		needs.LeaveOut(t, "a Xen guest, and root")
	}
	if err != nil {
		t.Fatal(err)
	}
	if id, err := g.Store.Read(t.Context(), "domid"); err != nil || id == "" {
		t.Errorf("own domid %q, %v", id, err)
	}
	if _, err := g.Grants.Limit(); err != nil {
		t.Error(err)
	}
	if f, err := g.Events.Open(); err != nil {
		t.Error(err)
	} else if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

func TestRealGrantsAreOneZeroedContiguousMapping(t *testing.T) {
	g := realGrants(t)
	for _, writable := range []bool{false, true} {
		const n = 256
		p, err := g.Alloc(0, n, writable)
		if err != nil {
			t.Fatal(err)
		}
		b := p.Bytes()
		if len(b) != n*PageSize || cap(b) != n*PageSize {
			t.Fatalf("mapping of %d bytes", len(b))
		}
		if !bytes.Equal(b, make([]byte, n*PageSize)) {
			t.Error("the pages are not zeroed")
		}
		seen := make(map[GrantRef]bool)
		for i, ref := range p.Refs() {
			if ref == 0 || seen[ref] {
				t.Fatalf("page %d has ref %d", i, ref)
			}
			seen[ref] = true
			b[i*PageSize] = byte(i) // this side may write both kinds
		}
		if len(seen) != n {
			t.Errorf("%d refs", len(seen))
		}
		if err := p.Free(); err != nil {
			t.Error(err)
		}
		if err := p.Free(); !errors.Is(err, ErrClosed) {
			t.Errorf("second free: %v", err)
		}
		if p.Bytes() != nil {
			t.Error("bytes after free")
		}
	}
}

// The kernel gives grants that were ended out again, the last one first: what nobody has mapped
// is never taken for left behind but for the few that another driver takes at that moment.
func TestRealPagesThatNobodyMapsAreNotLeftBehind(t *testing.T) {
	g := realGrants(t)
	for range 8 {
		p, err := g.Alloc(0, 256, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Free(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := g.Left(); err != nil || n > 16 {
		t.Errorf("%d of 2048 pages are left behind, %v", n, err)
	}
}

func TestRealLimitIsErrGrantLimit(t *testing.T) {
	g := realGrants(t)
	limit, err := g.Limit()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Alloc(0, limit+1, false); !errors.Is(err, ErrGrantLimit) {
		t.Errorf("%d pages of %d: %v", limit+1, limit, err)
	}
	if p, err := g.Alloc(0, 1, false); err != nil {
		t.Errorf("one page after that: %v", err)
	} else if err := p.Free(); err != nil {
		t.Error(err)
	}
}

func TestRealLimitCanBeRaised(t *testing.T) {
	g := realGrants(t)
	before, err := g.Limit()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(gntallocLimit, []byte(strconv.Itoa(before)), 0) })
	if err := g.RaiseLimit(before + 512); err != nil {
		needs.LeaveOut(t, "a Xen guest, and root")
	}
	if n, err := g.Limit(); n != before+512 || err != nil {
		t.Errorf("limit %d, %v, want %d", n, err, before+512)
	}
	if _, err := g.Alloc(0, before+256, false); err != nil {
		t.Error(err)
	}
}

func TestRealCloseEndsWhatWasNotFreed(t *testing.T) {
	g := realGrants(t)
	limit, err := g.Limit()
	if err != nil {
		t.Fatal(err)
	}
	p, err := g.Alloc(0, limit/2+1, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Free(); !errors.Is(err, ErrClosed) {
		t.Errorf("free after close: %v", err)
	}
	if _, err := realGrants(t).Alloc(0, limit/2+1, true); err != nil {
		t.Errorf("the pages still count: %v", err)
	}
}

func TestRealUnmapNotifyRaisesTheEvent(t *testing.T) {
	g := realGrants(t)
	near, far := realEvents(t), realEvents(t)
	nearPort, farPort := realChannel(t, near, far)
	p, err := g.Alloc(0, 2, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.NotifyUnmap(2*PageSize, true, 0); err == nil {
		t.Error("notification beyond the mapping accepted")
	}
	if err := p.NotifyUnmap(PageSize, false, farPort+1000); !errors.Is(err, unix.EINVAL) {
		t.Errorf("notification by a port that is not bound: %v", err)
	}
	if err := p.NotifyUnmap(PageSize+8, true, farPort); err != nil {
		t.Fatal(err)
	}
	if pending(t, near, 50) {
		t.Fatal("event before the pages went")
	}
	if err := p.Free(); err != nil {
		t.Fatal(err)
	}
	var ports [4]Port
	if !pending(t, near, 5000) {
		t.Fatal("no event when the pages went")
	}
	if n, err := near.Read(ports[:]); n != 1 || err != nil || ports[0] != nearPort {
		t.Errorf("read %d, %v, %v, want port %d", n, err, ports, nearPort)
	}
}

func TestRealPortStaysMaskedUntilUnmask(t *testing.T) {
	near, far := realEvents(t), realEvents(t)
	nearPort, farPort := realChannel(t, near, far)
	var ports [4]Port
	if err := far.Notify(farPort); err != nil {
		t.Fatal(err)
	}
	if !pending(t, near, 5000) {
		t.Fatal("no event")
	}
	if n, err := near.Read(ports[:]); n != 1 || err != nil || ports[0] != nearPort {
		t.Fatalf("read %d, %v, %v, want port %d", n, err, ports, nearPort)
	}
	if err := far.Notify(farPort); err != nil {
		t.Fatal(err)
	}
	if pending(t, near, 50) {
		t.Fatal("event while masked")
	}
	if err := near.Unmask(nearPort); err != nil {
		t.Fatal(err)
	}
	if !pending(t, near, 5000) {
		t.Fatal("the event that came while masked is lost")
	}
}

func TestRealForeignPortIsErrNotBound(t *testing.T) {
	near, far := realEvents(t), realEvents(t)
	nearPort, _ := realChannel(t, near, far)
	if err := far.Notify(nearPort); !errors.Is(err, ErrNotBound) {
		t.Errorf("notify of another file's port: %v", err)
	}
	if err := far.Unbind(nearPort); !errors.Is(err, ErrNotBound) {
		t.Errorf("unbind of another file's port: %v", err)
	}
	if err := near.Unbind(nearPort); err != nil {
		t.Fatal(err)
	}
	if err := near.Notify(nearPort); !errors.Is(err, ErrNotBound) {
		t.Errorf("notify after unbind: %v", err)
	}
}

func TestRealEventPathAllocatesNothing(t *testing.T) {
	near, far := realEvents(t), realEvents(t)
	_, farPort := realChannel(t, near, far)
	var ports [4]Port
	if allocs := testing.AllocsPerRun(50, func() {
		if err := far.Notify(farPort); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := near.Read(ports[:])
			if err != nil {
				t.Fatal(err)
			}
			if n == 1 {
				break
			}
		}
		if err := near.Unmask(ports[0]); err != nil {
			t.Fatal(err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations per event", allocs)
	}
}
