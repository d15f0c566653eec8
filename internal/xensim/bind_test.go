package xensim

import (
	"errors"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

func TestBindingRaisesTheBindersSideOnce(t *testing.T) {
	s := newServer(t, Options{})
	front, back := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0))
	f := bind(t, front, 0)
	notify(t, front, f) // nobody there yet: lost
	b, err := back.BindInterdomain(1, f)
	if err != nil {
		t.Fatal(err)
	}
	wantEvents(t, front)
	wantEvents(t, back, b)
	unmask(t, back, b)
	wantEvents(t, back)
}

func TestPortCanBeBoundOnlyByTheDomainItIsFor(t *testing.T) {
	s := newServer(t, Options{})
	front, back, other := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0)), openEvents(t, connect(t, s, 2))
	f := bind(t, front, 0)
	for name, c := range map[string]struct {
		file   *EventFile
		remote xen.DomID
		port   xen.Port
		want   error
	}{
		"another domain": {other, 1, f, unix.EINVAL},
		"no such port":   {back, 1, f + 1, unix.EINVAL},
		"no such domain": {back, 9, f, unix.ESRCH},
	} {
		if _, err := c.file.BindInterdomain(c.remote, c.port); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := back.BindInterdomain(1, f); err != nil {
		t.Fatal(err)
	}
	if _, err := back.BindInterdomain(1, f); !errors.Is(err, unix.EINVAL) {
		t.Errorf("bound twice: %v", err)
	}
}

func TestPortOfAnotherFileIsNotBoundHere(t *testing.T) {
	s := newServer(t, Options{})
	c := connect(t, s, 1)
	a, b := openEvents(t, c), openEvents(t, c)
	p := bind(t, a, 0)
	if err := b.Notify(p); !errors.Is(err, xen.ErrNotBound) {
		t.Errorf("notify: %v", err)
	}
	if err := b.Unbind(p); !errors.Is(err, xen.ErrNotBound) {
		t.Errorf("unbind: %v", err)
	}
	if err := b.Unmask(p); err != nil {
		t.Errorf("unmask, which evtchn ignores: %v", err)
	}
}

func TestOtherEndBecomesUnboundAndCanBeBoundAgain(t *testing.T) {
	bothMemories(t, func(t *testing.T, opts Options) {
		s := newServer(t, opts)
		front, back := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0))
		f, b := join(t, front, back)
		notify(t, front, f)
		wantEvents(t, back, b)
		if err := back.Unbind(b); err != nil {
			t.Fatal(err)
		}
		if in := s.PortsInUse(0); len(in) != 0 {
			t.Fatalf("in use: %+v", in)
		}
		if in := s.PortsInUse(1); len(in) != 1 || in[0].Bound {
			t.Fatalf("in use: %+v", in)
		}
		notify(t, front, f) // harmless
		again := openEvents(t, connect(t, s, 0))
		b2, err := again.BindInterdomain(1, f)
		if err != nil {
			t.Fatal(err)
		}
		wantEvents(t, again, b2)
		unmask(t, again, b2)
		notify(t, front, f)
		wantEvents(t, again, b2)
		wantEvents(t, back)
		notify(t, again, b2)
		wantEvents(t, front, f)
	})
}

func TestNotifyDoesNotReachAPortThatTookTheSlot(t *testing.T) {
	s := newServer(t, Options{})
	front, back := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0))
	f, b := join(t, front, back)
	notify(t, front, f) // the front knows the back's slot
	wantEvents(t, back, b)
	stale := *front.ports[f].peer
	if err := back.Unbind(b); err != nil {
		t.Fatal(err)
	}
	if b2 := bind(t, back, 2); b2 != b {
		t.Fatalf("port %d, want %d again: this test needs it", b2, b)
	}
	if stale.slot.raise(stale.generation) {
		t.Fatal("an event for a port that is gone reached its successor")
	}
	wantEvents(t, back)
}

func TestClosedFileLosesItsPorts(t *testing.T) {
	s := newServer(t, Options{})
	front, back := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0))
	_, b := join(t, front, back)
	if err := front.Close(); err != nil {
		t.Fatal(err)
	}
	if in := s.PortsInUse(1); len(in) != 0 {
		t.Fatalf("in use: %+v", in)
	}
	notify(t, back, b)
	if _, err := front.Bind(0); !errors.Is(err, xen.ErrClosed) {
		t.Errorf("bind: %v", err)
	}
	if err := front.Notify(1); !errors.Is(err, xen.ErrClosed) {
		t.Errorf("notify: %v", err)
	}
}

func TestPortsRunOut(t *testing.T) {
	s := newServer(t, Options{})
	e := openEvents(t, connect(t, s, 1))
	for range maxPort {
		bind(t, e, 0)
	}
	if _, err := e.Bind(0); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("bind: %v", err)
	}
	if err := e.Unbind(500); err != nil {
		t.Fatal(err)
	}
	if p := bind(t, e, 0); p != 500 {
		t.Fatalf("port %d, want the lowest free one", p)
	}
}

func TestBindFailsOnAClosedConnection(t *testing.T) {
	s := newServer(t, Options{})
	c := connect(t, s, 1)
	e := openEvents(t, c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Bind(0); err == nil {
		t.Error("bind succeeded")
	}
	if _, err := c.OpenEvents(); err == nil {
		t.Error("open succeeded")
	}
	if _, err := c.MapGrant(1, firstGrant, false); !errors.Is(err, xen.ErrClosed) {
		t.Errorf("map: %v", err)
	}
}
