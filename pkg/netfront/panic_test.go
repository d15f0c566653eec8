package netfront

import (
	"errors"
	"strings"
	"testing"
)

func TestPanicOfAWorkerIsAnErrorWithItsStack(t *testing.T) {
	w := &worker{done: make(chan struct{})} // without a poller, which is a fault
	failed := make(chan error, 1)
	w.start(func(err error) { failed <- err })
	var p *panicError
	if err := <-failed; !errors.As(err, &p) || !strings.Contains(p.stack, "(*worker).run") || strings.Contains(err.Error(), "\n") || cause(err) != "panic" {
		t.Errorf("%v", err)
	}
	<-w.done
}

func TestTxQueueWhoseWorkerPanickedInTheMiddleOfAFrameIsFreedWhole(t *testing.T) {
	r := newTxRig(t, AllFeatures(), fullMaps)
	r.q.ring = nil // a fault between the load of a map and its slot
	func() {
		defer func() {
			if recover() == nil {
				t.Error("there was no panic")
			}
		}()
		_ = r.q.copyOut(patterned(5000, 1), txPlan{})
	}()
	if c := r.q.pool.Counts(); c.Loaded != 1 {
		t.Fatalf("no map is loaded: %+v", c)
	}
	// The rig's clean-up closes the queue and fails if that leaves anything.
}
