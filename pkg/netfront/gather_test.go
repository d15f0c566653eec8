package netfront

import (
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

func TestFramesAreGatheredForATimeInWhichSomeComeAndNoLonger(t *testing.T) {
	for _, c := range []struct {
		rate uint64 // bytes a second
		want time.Duration
	}{
		{0, 0}, {125_000, 0}, {1_250_000, 0}, {2_900_000, 0},
		{3_000_000, time.Millisecond}, {12_500_000, time.Millisecond}, {24_000_000, time.Millisecond},
		{125_000_000, 192 * time.Microsecond}, {1 << 62, 0},
	} {
		if got := gatherTime(c.rate); got != c.want {
			t.Errorf("at %d bytes a second: %v, want %v", c.rate, got, c.want)
		}
	}
}

func TestFrameThatComesAloneIsTakenAtOnceAndOthersAreGathered(t *testing.T) {
	const pause = time.Millisecond
	g, begun, frames := gathering{}, time.Now(), uint64(0)
	for i, s := range []struct {
		at     time.Duration
		pause  time.Duration
		edge   bool
		frames uint64 // taken since the step before
		read   bool
		on     bool
	}{
		{at: 0, pause: pause},                                       // another event: the TAP is not looked at
		{at: 1, pause: pause, edge: true, read: true},               // a frame alone
		{at: 5000, pause: pause, edge: true, frames: 1, read: true}, // and another one
		{at: 5100, pause: pause, edge: true, frames: 1, on: true},   // soon after it: gathered
		{at: 5500, pause: pause, on: true},
		{at: 6000, pause: pause, read: true, on: true},
		{at: 7000, pause: pause, frames: 3, read: true, on: true}, // it goes on while frames come
		{at: 7900, pause: pause, frames: 3, on: true},
		{at: 8000, pause: pause, read: true, on: true},
		{at: 9000, pause: pause, read: true, on: true},  // nothing came
		{at: 10000, pause: pause, read: true},           // twice: the TAP wakes the worker again
		{at: 10001, pause: pause, edge: true, on: true}, // a frame soon after that
		{at: 10002, read: true},                         // nothing is held back any more
		{at: 10003, pause: pause, edge: true, read: true},
	} {
		frames += s.frames
		read := g.look(begun.Add(s.at*time.Microsecond), s.pause, s.edge, frames)
		if read != s.read || g.on != s.on {
			t.Errorf("step %d: read %t and on %t, want %t and %t", i, read, g.on, s.read, s.on)
		}
	}
}

func TestGatheringWakesTheWorkerInTime(t *testing.T) {
	g := gathering{}
	if got := g.until(time.Second); got != time.Second {
		t.Errorf("without it the worker waits for %v", got)
	}
	g = gathering{on: true, left: time.Millisecond}
	for pause, want := range map[time.Duration]time.Duration{0: time.Millisecond, time.Second: time.Millisecond, time.Microsecond: time.Microsecond} {
		if got := g.until(pause); got != want || g.ticks != (pause != time.Microsecond) {
			t.Errorf("a worker that would wait for %v waits for %v, want %v; for the TAP: %t", pause, got, want, g.ticks)
		}
	}
}

// Frames that a rate lets through one by one cost no publication each, and none stays behind
// when the sender ends.
func TestFramesThatARateLetsThroughAreSentSomeAtATime(t *testing.T) {
	const perSecond = 12_500_000
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Rate: "625000,50000"}})
	w.connected(1)
	f := w.flood()
	w.eventually("a second's bytes to be carried", func() bool { return w.dev.Status().Queues[0].Tx.Counters["bytes"] > perSecond })
	sent := uint64(f.end())
	w.eventually("every frame to be carried, or dropped by a TAP that was full", func() bool {
		s := w.dev.Status()
		return s.Queues[0].Tx.Counters["packets"]+s.Link.TxDropped >= sent
	})
	if c := w.dev.Status().Queues[0].Tx.Counters; c["batches"]*2 > c["packets"] {
		t.Errorf("%d frames took %d publications", c["packets"], c["batches"])
	}
}
