package netfront

import (
	"fmt"
	"time"
)

const (
	// stormAfter is how many spurious events in a row a worker takes before it
	// leaves the port masked for a while.
	stormAfter = 16
	// stormPause is how long, at first; it doubles up to stormPauseMax.
	stormPause    = time.Millisecond
	stormPauseMax = 256 * time.Millisecond
	// parkedLook is how often a tx queue that waits for many responses looks whether
	// fewer have come: Linux netback answers a frame that it handed on without a copy
	// when the receiver lets go of it, which must not hold up the others.
	parkedLook = 10 * time.Millisecond
)

// writeBack unmasks the ports that were delivered, after the work they announced:
// the late EOI. It is the place to slow down a backend that raises events for
// nothing.
func (w *worker) writeBack(event, worked bool, ready readiness) error {
	if event {
		q := w.counters()
		q.add(cEvents, 1)
		if worked {
			w.spurious = 0
		} else {
			w.spurious++
			q.add(cEventsSpurious, 1)
		}
	}
	if w.pending == 0 || (w.spurious > stormAfter && ready&readyTimeout == 0) {
		return nil
	}
	for _, p := range w.ports[:w.pending] {
		if err := w.events.Unmask(p); err != nil {
			return fmt.Errorf("unmask event channel: %w", err)
		}
		crashPoint(crashEventWritten)
	}
	w.pending = 0
	return nil
}

// pause is how long to wait at most: for ever (0), unless a storm's port is to be
// unmasked, or the tx queue is parked.
func (w *worker) pause() time.Duration {
	var storm time.Duration
	if w.pending > 0 {
		storm = min(stormPause<<min(w.spurious-stormAfter, 10), stormPauseMax)
	}
	if w.tx != nil && w.tx.parked && (storm == 0 || storm > parkedLook) {
		return parkedLook
	}
	return storm
}
