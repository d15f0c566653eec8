package xensim

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

func openEvents(t *testing.T, c *Connection) *EventFile {
	t.Helper()
	e, err := c.OpenEvents()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// readable waits up to 0 or 5 s for a descriptor.
func readable(t *testing.T, fd int, wait bool) bool {
	t.Helper()
	timeout := 0
	if wait {
		timeout = 5000
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, timeout)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n == 1
	}
}

// wantEvents reads once and compares.
func wantEvents(t *testing.T, e *EventFile, want ...xen.Port) {
	t.Helper()
	if got := readable(t, e.FD(), false); got != (len(want) > 0) {
		t.Fatalf("readable: %v, want events %v", got, want)
	}
	var ports [16]xen.Port
	n, err := e.Read(ports[:])
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ports[:n])
	if !slices.Equal(ports[:n], want) {
		t.Fatalf("events %v, want %v", ports[:n], want)
	}
}

func unmask(t *testing.T, e *EventFile, port xen.Port) {
	t.Helper()
	if err := e.Unmask(port); err != nil {
		t.Fatal(err)
	}
}

func notify(t *testing.T, e *EventFile, port xen.Port) {
	t.Helper()
	if err := e.Notify(port); err != nil {
		t.Fatal(err)
	}
}

func bind(t *testing.T, e *EventFile, remote xen.DomID) xen.Port {
	t.Helper()
	p, err := e.Bind(remote)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// join binds a channel between two files and takes the event of the binding.
func join(t *testing.T, front, back *EventFile) (f, b xen.Port) {
	t.Helper()
	f = bind(t, front, 0)
	b, err := back.BindInterdomain(1, f)
	if err != nil {
		t.Fatal(err)
	}
	wantEvents(t, back, b)
	unmask(t, back, b)
	return f, b
}

func TestEventIsMaskedFromReadToUnmask(t *testing.T) {
	bothMemories(t, func(t *testing.T, opts Options) {
		s := newServer(t, opts)
		front, back := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0))
		f, b := join(t, front, back)
		wantEvents(t, front)

		notify(t, back, b)
		notify(t, back, b)
		wantEvents(t, front, f) // two are one
		notify(t, back, b)
		wantEvents(t, front) // masked
		unmask(t, front, f)
		wantEvents(t, front, f) // what came in between
		unmask(t, front, f)
		wantEvents(t, front)
		unmask(t, front, f) // not masked: harmless
		wantEvents(t, front)

		notify(t, front, f)
		wantEvents(t, back, b)
	})
}

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

func TestReadThatIsTooSmallKeepsTheDescriptorReadable(t *testing.T) {
	s := newServer(t, Options{})
	front, back := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0))
	var fronts, backs []xen.Port
	for range 5 {
		f, b := join(t, front, back)
		fronts, backs = append(fronts, f), append(backs, b)
	}
	for _, b := range backs {
		notify(t, back, b)
	}
	var got []xen.Port
	var two [2]xen.Port
	for readable(t, front.FD(), false) {
		n, err := front.Read(two[:])
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, two[:n]...)
	}
	slices.Sort(got)
	if !slices.Equal(got, fronts) {
		t.Fatalf("events %v, want %v", got, fronts)
	}
}

func TestBusyPortDoesNotStarveTheOthers(t *testing.T) {
	s := newServer(t, Options{})
	front, back := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0))
	f1, b1 := join(t, front, back)
	f2, b2 := join(t, front, back)
	notify(t, back, b1)
	notify(t, back, b2)
	var one [1]xen.Port
	for _, want := range []xen.Port{f1, f2, f1} {
		if n, err := front.Read(one[:]); n != 1 || err != nil || one[0] != want {
			t.Fatalf("event %d (%d, %v), want %d", one[0], n, err, want)
		}
		unmask(t, front, one[0])
		notify(t, back, b1)
	}
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

func TestUnmapNotificationClearsTheByteAndSendsTheEvent(t *testing.T) {
	bothMemories(t, func(t *testing.T, opts Options) {
		s := newServer(t, opts)
		front, back := connect(t, s, 1), connect(t, s, 0)
		fe, be := openEvents(t, front), openEvents(t, back)
		f, b := join(t, fe, be)
		p := alloc(t, front, 0, 2, true)
		at := xen.PageSize + 8
		p.Bytes()[at] = 1
		if err := p.NotifyUnmap(3, true, 0); err != nil {
			t.Fatal(err)
		}
		if err := p.NotifyUnmap(at+1, true, f); err != nil {
			t.Fatal(err)
		}
		if err := p.NotifyUnmap(at, true, f); err != nil { // replaces the one before
			t.Fatal(err)
		}
		m := mapGrant(t, back, 1, p.Refs()[1], false)
		if err := fe.Close(); err != nil {
			t.Fatal(err)
		}
		if in := s.PortsInUse(1); len(in) != 1 || in[0].Held != 1 {
			t.Fatalf("the notification does not hold its port: %+v", in)
		}
		wantEvents(t, be)
		if err := front.Close(); err != nil {
			t.Fatal(err)
		}
		if m.Bytes()[8] != 0 {
			t.Error("byte not cleared")
		}
		wantEvents(t, be, b)
		if in := s.PortsInUse(1); len(in) != 0 {
			t.Errorf("port held after the notification: %+v", in)
		}
		if err := m.Unmap(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestNoEventIsLost has many goroutines raise events while one takes them: whatever
// was written before a Notify must be seen after some later Read.
func TestNoEventIsLost(t *testing.T) {
	bothMemories(t, func(t *testing.T, opts Options) {
		s := newServer(t, opts)
		front, back := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0))
		f, b := join(t, front, back)
		const writers, each = 4, 2000
		var mu sync.Mutex
		work := 0
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for range each {
					mu.Lock()
					work++
					mu.Unlock()
					if err := back.Notify(b); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for done := 0; done < writers*each; {
			if !readable(t, front.FD(), true) {
				t.Fatalf("no event, %d of %d done", done, writers*each)
			}
			var ports [1]xen.Port
			n, err := front.Read(ports[:])
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				continue
			}
			mu.Lock()
			done, work = done+work, 0
			mu.Unlock()
			unmask(t, front, f)
		}
		wg.Wait()
	})
}

// TestNotifyDuringUnbindIsHarmless is for the race detector, and for the fault that
// a mapping in use would be if it were unmapped.
func TestNotifyDuringUnbindIsHarmless(t *testing.T) {
	s := newServer(t, Options{})
	front, back := openEvents(t, connect(t, s, 1)), connect(t, s, 0)
	f := bind(t, front, 0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := front.Notify(f); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for deadline := time.Now().Add(200 * time.Millisecond); time.Now().Before(deadline); {
		e, err := back.OpenEvents()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.BindInterdomain(1, f); err != nil {
			t.Fatal(err)
		}
		readable(t, e.FD(), true)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
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
