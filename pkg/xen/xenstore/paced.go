package xenstore

import (
	"context"
	"sync"
	"time"
)

// How often a [PacedWatch] reports at most.
const (
	// PaceBurst is how many events come as they are after a calm time. The walk of a device
	// through its states has fewer.
	PaceBurst = 16
	// PaceEvery is how long each takes that comes in a storm.
	PaceEvery = 100 * time.Millisecond
)

// Watcher is who can watch: a [Client], say.
type Watcher interface {
	Watch(ctx context.Context, path string) (*Watch, error)
}

// PacedWatch is a [Watch] with which others cannot keep this side busy: a backend, say, that
// writes below what is watched as fast as it can. Once PaceBurst events have come, another
// one comes every PaceEvery. An event after a calm time comes at once, and after the last
// change one does always. It is for a reader who looks at everything at each event.
//
// In a storm there is no watch between two looks, so that nobody has to take the events that
// nobody wants: to wake for one costs as much as a look. The next watch begins with an event.
type PacedWatch struct {
	events chan string
	stop   context.CancelFunc
	done   chan struct{} // closed when run has ended

	mu  sync.Mutex
	err error
}

// WatchPaced is s.Watch with a pace. The context is for setting the watch up only.
func WatchPaced(ctx context.Context, s Watcher, path string) (*PacedWatch, error) {
	first, err := s.Watch(ctx, path)
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	w := &PacedWatch{events: make(chan string), stop: stop, done: make(chan struct{})}
	go w.run(running, s, path, first)
	return w, nil
}

// Events are as those of a [Watch].
func (w *PacedWatch) Events() <-chan string { return w.events }

// Err says why Events was closed, like [Watch.Err]. The reason can also be that the watch
// could not be set up again.
func (w *PacedWatch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close ends the watch, like [Watch.Close].
func (w *PacedWatch) Close() error {
	w.stop()
	<-w.done
	return nil
}

// run gives the events to the reader.
func (w *PacedWatch) run(ctx context.Context, s Watcher, path string, from *Watch) {
	defer close(w.done)
	defer close(w.events)
	p := pace{room: PaceBurst, since: time.Now()}
	for {
		event, ok := "", false
		select {
		case event, ok = <-from.Events():
		case <-ctx.Done():
			_ = from.Close()
			return
		}
		if !ok {
			w.fail(from.Err())
			return
		}
		if p.spend(time.Now()) {
			if ended, err := w.give(ctx, event, from); ended {
				_ = from.Close() // which always succeeds
				w.fail(err)
				return
			}
			continue
		}
		_ = from.Close()
		select {
		case <-time.After(p.wait(time.Now())):
		case <-ctx.Done():
			return
		}
		var err error
		if from, err = s.Watch(ctx, path); err != nil {
			if ctx.Err() == nil {
				w.fail(err)
			}
			return
		}
	}
}

// give gives an event to the reader. Those that come while he is at work on the last one are
// the same to him. Ended tells whether the watch has, and err why.
func (w *PacedWatch) give(ctx context.Context, event string, from *Watch) (ended bool, err error) {
	more := from.Events()
	for absorbed := 0; ; absorbed++ {
		if absorbed == PaceBurst {
			more = nil // in a storm the connection makes one of them for less
		}
		select {
		case w.events <- event:
			return false, nil
		case _, ok := <-more:
			if !ok {
				return true, from.Err()
			}
		case <-ctx.Done():
			return true, nil
		}
	}
}

func (w *PacedWatch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// pace has room for so many events, and gets room for another one every PaceEvery.
type pace struct {
	room  int
	since time.Time // of the last room that came, or until when there was room for all
}

// spend takes the room of an event, if there is any.
func (p *pace) spend(now time.Time) bool {
	if p.fill(now); p.room == 0 {
		return false
	}
	p.room--
	return true
}

func (p *pace) fill(now time.Time) {
	came := int(now.Sub(p.since) / PaceEvery)
	p.since = p.since.Add(time.Duration(came) * PaceEvery)
	if p.room = min(p.room+came, PaceBurst); p.room == PaceBurst {
		p.since = now
	}
}

// wait is how long there is no room.
func (p *pace) wait(now time.Time) time.Duration {
	if p.fill(now); p.room > 0 {
		return 0
	}
	return p.since.Add(PaceEvery).Sub(now)
}
