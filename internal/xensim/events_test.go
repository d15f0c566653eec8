package xensim

import (
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

// TestEventOfANotifierThatWasKilledIsDelivered stands for a process that dies between
// setting the bit and writing the eventfd.
func TestEventOfANotifierThatWasKilledIsDelivered(t *testing.T) {
	s := newServer(t, Options{})
	front, back := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0))
	f, b := join(t, front, back)
	if p := back.ports[b].peer; !p.slot.raise(p.generation) || readable(t, front.FD(), false) {
		t.Fatal("this test needs the state in between")
	}
	if err := back.Close(); err != nil {
		t.Fatal(err)
	}
	wantEvents(t, front, f)
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
