package netfront

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// Linux gives a guest's programs their watch events through the one thread in which its
// drivers handle their own (xenwatch_thread). While one of these waits there for its
// backend no program gets an event, for as long as that takes; requests are answered
// meanwhile. So what is followed by a watch is also looked at now and then, and Watches
// tells whether events are late.

const (
	// lookEvery is how often, to a quarter more. A toolstack that takes a vif away waits 10 s
	// for its end.
	lookEvery = 4 * time.Second
	// lookFirst is how soon after something that a backend answers in milliseconds.
	lookFirst = 100 * time.Millisecond
	// lookTimeout is what a monitor waits for xenstored, which may be dead: it has other
	// things to do, and can look later. It is less than one of its seconds.
	lookTimeout = 800 * time.Millisecond
)

// LookPause is how long to wait between two looks at what is followed by a watch: some
// seconds, each time others, so that many guests do not ask at once.
func LookPause() time.Duration { return lookEvery + rand.N(lookEvery/4) }

// lookDue counts a Device's seconds to its next look.
type lookDue struct{ left int }

// tick tells once in lookEvery or a second more that it is time.
func (l *lookDue) tick() bool {
	if l.left--; l.left > 0 {
		return false
	}
	first := l.left < 0
	l.left = int(lookEvery/time.Second) + rand.N(2)
	return !first
}

// looks are the pauses between looks at a backend that is waited for: short at first, then
// longer until they are as ever.
type looks struct{ pause time.Duration }

// next is the next of them.
func (l *looks) next() time.Duration {
	if l.pause < lookEvery {
		l.pause = max(lookFirst, 2*l.pause)
	}
	if l.pause < lookEvery {
		return l.pause
	}
	return LookPause()
}

// progress makes them short again.
func (l *looks) progress() { l.pause = 0 }

// tick is called once in a second, in which a monitor is awake anyway. When it is time it
// looks at what no event may have told: where the vif is, its backend's state, and all
// else that is watched if there is a sign that events are late.
func (s *sight) tick(ctx context.Context, shape *shaping) error {
	if !s.due.tick() {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	err := s.b.moved(limited)
	st := netif.StateUnknown
	if err == nil {
		st, err = readState(limited, s.b.store, s.b.backend)
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil
	}
	if err != nil {
		return err
	}
	_, late := s.d.cfg.Watches.Late()
	late = late || st != s.d.view.backendState // which this goroutine writes
	if err := s.saw(ctx, st); err != nil {
		return err
	}
	if !s.attached {
		if err := s.b.checkOurs(ctx); err != nil {
			return err
		}
	}
	if !late {
		return nil
	}
	shape.setLimit(s.d.rate(ctx, s.b))
	return s.d.cableChanged(ctx, s.b, s.attached, s.pairs)
}

// checkOurs fails with errMoved if the vif is not the one that this process said Connected
// of: one that was taken away and is back in the same place is as the toolstack makes it,
// and its backend will never take up the rings. It is asked when the backend is seen to
// begin anew.
func (b *bus) checkOurs(ctx context.Context) error {
	own, err := readState(ctx, b.store, b.dir)
	if err == nil && own != netif.StateConnected {
		return errMoved
	}
	return err
}

// Watches tells whether xenstore's watch events come in time, for all Devices of a guest:
// whoever makes them calls Probe now and then. Late may be called by any goroutine; the
// other methods belong to one. The zero value knows of nothing late, and so does nil.
type Watches struct {
	probe   *xenstore.Watch // whose first event is waited for; nil: none
	set     time.Time       // when probe was set
	awaited int             // calls of Probe since then

	mu    sync.Mutex
	since time.Time // since when events are late; zero: they come in time
	times uint64
}

// Late tells since when events are late.
func (w *Watches) Late() (since time.Time, late bool) {
	if w == nil {
		return time.Time{}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.since, !w.since.IsZero()
}

// Times is how often events began to be late.
func (w *Watches) Times() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.times
}

// Probe sets a watch, whose first event comes at once where events do, unless the one
// before still waits for that. If that does so for the second time, events are late, and
// late is true if it is new: the first time can be a guest that was paused. Calls are some
// seconds apart ([LookPause]), and after each an event is waited for on Answer.
func (w *Watches) Probe(ctx context.Context, s xen.Store) (late bool, err error) {
	if w.probe == nil {
		probe, err := s.Watch(ctx, vifDir)
		if err != nil {
			return false, err
		}
		w.probe, w.set, w.awaited = probe, time.Now(), 0
		return false, nil
	}
	if w.awaited++; w.awaited < 2 {
		return false, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if late = w.since.IsZero(); late {
		w.since = w.set
		w.times++
	}
	return late, nil
}

// Answer says that the event has come, after which Answered is called. It is nil while none
// is waited for.
func (w *Watches) Answer() <-chan string {
	if w.probe == nil {
		return nil
	}
	return w.probe.Events()
}

// Answered ends the probe, and returns for how long events were late; 0: they were not.
func (w *Watches) Answered() (late time.Duration) {
	w.End()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.since.IsZero() {
		late = time.Since(w.since)
	}
	w.since = time.Time{}
	return late
}

// End takes the probe off, as before the store is closed. What is known stays.
func (w *Watches) End() {
	if w.probe != nil {
		_ = w.probe.Close() // which always succeeds
		w.probe = nil
	}
}
