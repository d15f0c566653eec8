package netfront

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

const (
	// firstLook is how often a fresh connection is looked at until the backend has shown
	// that it listens. Frames that are untouched at two looks get the backend kicked, at
	// the third the connection is given up; both are later by what the backend may wait for
	// credit. Linux netback can lose its first event when both directions share a channel,
	// and then looks at tx once, when its interface comes up (xenvif_up of
	// drivers/net/xen-netback/interface.c), and never again.
	firstLook = time.Second
	// laterLook is how often a connection is looked at after that.
	laterLook = 5 * time.Second
	// unansweredLooks is for how many looks a frame may be older than the watchdog's patience
	// until that is said; at the first of them the backend is kicked.
	unansweredLooks = 3
	// stallAfter is for how long nothing may move in a direction with work to do until
	// both sides are kicked; after as long again the connection is given up. It is
	// longer than netback holds a frame for a receiver that does not take it (10 s,
	// rx_drain_timeout_msecs).
	stallAfter = 15 * time.Second
)

// errStalled says that a queue had work to do, and nothing moved for too long.
var errStalled = errors.New("nothing moves on the ring")

// watchdog looks after the queues of a connection: a state of Connected is not proof
// that the backend listens, nor that it goes on.
type watchdog struct {
	log      *zap.Logger
	patience time.Duration // see stallAfter
	credit   time.Duration // see largestWait
	wait     time.Duration // until the next look
	queues   []queueWatch
}

// queueWatch is what is known of one pair.
type queueWatch struct {
	p      *pair
	strike int         // looks at which requests were left alone; -1 when the backend is alive
	last   ring.Header // as of the last look
	looked bool        // the backend has looked since it attached
	proof  uint32      // requests that were there after the first sign of that
	tx, rx ringWatch
	late   int // looks at which a frame had been without an answer for too long
}

// ringWatch is what one ring looked like when something moved last.
type ringWatch struct {
	produced, consumed uint32    // responses: the shared word, and ours
	since              time.Time // zero before the first look
	kicked             bool
}

// newWatchdog watches from now on. Fresh is false for a backend that has been at work
// before, credit what largestWait says.
func newWatchdog(pairs []*pair, fresh bool, credit time.Duration, log *zap.Logger) *watchdog {
	w := &watchdog{log: log, patience: max(stallAfter, 4*credit), credit: credit, queues: make([]queueWatch, len(pairs))}
	for i, p := range pairs {
		q := &w.queues[i]
		*q = queueWatch{p: p, last: p.tx.ring.Header()}
		if !fresh {
			q.strike = -1
		}
	}
	w.wait = w.every()
	return w
}

// due is called every second and tells whether it is time to look.
func (w *watchdog) due() bool {
	w.wait -= time.Second
	return w.wait <= 0
}

// every is how often to look.
func (w *watchdog) every() time.Duration {
	for i := range w.queues {
		if w.queues[i].strike >= 0 {
			return firstLook
		}
	}
	return laterLook
}

// more is for how many looks more a fresh backend is waited for.
func (w *watchdog) more() int { return int(w.credit / firstLook) }

// look checks each queue, and kicks those in trouble, once. It fails when that did not
// help.
func (w *watchdog) look(now time.Time) error {
	for i := range w.queues {
		q := &w.queues[i]
		err := q.fresh(w.more())
		if err == nil {
			// The tx queue takes responses when it needs maps, and not before.
			err = w.moves(q, "tx", &q.tx, now, q.p.tx.ring.Header(), q.p.tx.consumed.Load(), q.p.tx.waits.Load())
		}
		if err == nil {
			h, consumed := q.p.rx.ring.Header(), q.p.rx.consumed.Load()
			err = w.moves(q, "rx", &q.rx, now, h, consumed, h.RspProd != consumed)
		}
		if err != nil {
			return fmt.Errorf("queue %d: %w", q.p.number, err)
		}
		w.unanswered(q)
	}
	w.wait = w.every()
	return nil
}

// unanswered tells, once, that the backend keeps a frame. It is no reason to end the
// connection: a receiver behind the backend can be what keeps it, and there is room for
// others.
func (w *watchdog) unanswered(q *queueWatch) {
	age := time.Duration(q.p.tx.unansweredFor()) * time.Second
	if age < w.patience {
		q.late = 0
		return
	}
	switch q.late++; q.late {
	case 1:
		q.p.txWorker().tell(controlKick)
	case unansweredLooks:
		w.log.Warn("the backend does not answer a frame", zap.Int("queue", q.p.number), zap.Duration("for", age), event(EventUnanswered))
	}
}

// fresh looks at a pair whose backend has not shown itself. It has when it looked at a
// request that was not there yet when it was first seen to look: that one look, at what
// had come before, takes no event. A request that was there at one look and is untouched
// at the next gets a kick; at the one after that the connection is given up. More is for
// how many looks more it is waited for.
func (q *queueWatch) fresh(more int) error {
	if q.strike < 0 {
		return nil
	}
	now := q.p.tx.ring.Header()
	last := q.last
	q.last = now
	switch seen := now.Seen(); {
	case q.looked && int32(seen-q.proof) > 0:
		q.strike = -1
		return nil
	case seen != last.Seen(), now.RspProd != last.RspProd:
		q.strike = 0
		if !q.looked {
			q.looked, q.proof = true, q.p.tx.ring.Header().ReqProd
		}
		return nil
	case int32(now.ReqProd-seen) <= 0:
		return nil
	}
	q.strike++
	switch q.strike - more {
	case 2:
		q.p.txWorker().tell(controlKick)
	case 3:
		return errNoProgress
	}
	return nil
}

// moves looks at one ring: with work to do, its responses must be produced or consumed.
func (w *watchdog) moves(q *queueWatch, name string, r *ringWatch, now time.Time, h ring.Header, consumed uint32, busy bool) error {
	if !busy || r.since.IsZero() || h.RspProd != r.produced || consumed != r.consumed {
		*r = ringWatch{produced: h.RspProd, consumed: consumed, since: now}
		return nil
	}
	if now.Sub(r.since) < w.patience {
		return nil
	}
	if r.kicked {
		return fmt.Errorf("%s: %w for %v", name, errStalled, 2*w.patience)
	}
	r.kicked, r.since = true, now
	w.log.Warn("nothing moves on a ring: both sides are kicked once", zap.Int("queue", q.p.number),
		zap.String("ring", name), zap.Duration("for", w.patience), zap.Any("shared", h), zap.Uint32("consumed", consumed),
		zap.Any("tx", q.p.tx.status()), zap.Any("rx", q.p.rx.status()), event(EventStalled))
	for _, worker := range q.p.workers {
		worker.tell(controlKick)
	}
	return nil
}

// Alive asks every worker that runs for a sign of life, and fails if one of them does not
// give it in time. While a backend takes its time to connect, none runs. Any goroutine may call it.
func (d *Device) Alive(timeout time.Duration) error {
	d.mu.Lock()
	pairs, devid := d.view.pairs, d.cfg.DevID
	d.mu.Unlock()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for _, p := range pairs {
		for i, w := range p.workers {
			if !w.started.Load() {
				continue
			}
			select {
			case <-w.pong: // too late for whoever asked before
			default:
			}
			w.tell(controlPing)
			select {
			case <-w.pong:
			case <-w.done: // its connection is ending
			case <-deadline.C:
				return fmt.Errorf("vif %d, queue %d: worker %d does not answer for %v", devid, p.number, i, timeout)
			}
		}
	}
	return nil
}
