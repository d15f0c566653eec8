package netfront

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// newCounter is an eventfd that p waits for as what.
func newCounter(t *testing.T, p *poller, what readiness, flags uint32) (add, take func()) {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := p.add(fd, what, flags); err != nil {
		t.Fatal(err)
	}
	return func() { unix.Write(fd, []byte{7: 1}) }, func() { unix.Read(fd, make([]byte, 8)) }
}

// runTurns runs p and fails if that does not end.
func runTurns(t *testing.T, p *poller, turns turn) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- p.run(turns) }()
	select {
	case err := <-ended:
		return err
	case <-time.After(10 * time.Second):
		p.wake()
		t.Fatal("the worker slept over what had become ready")
		return nil
	}
}

// A worker parks without a look. Frames, events and wake-ups that come while it is at
// work, after it has looked for them, must not be left until the next ones.
func TestWhatBecomesReadyDuringATurnIsNotSleptOver(t *testing.T) {
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	port, takePort := newCounter(t, p, readyPort, 0)
	frame, takeFrame := newCounter(t, p, readyTAP, unix.EPOLLET)
	steps := []struct {
		sees readiness // of this turn, and
		make func()    // what it makes ready
	}{
		{0, port}, {readyPort, func() { takePort(); frame() }},
		{readyTAP, func() { port(); frame() }}, // the frame before was not taken
		{readyPort | readyTAP, func() { takePort(); takeFrame(); p.wake() }},
		{readyWake, p.wake}, {readyWake, port}, {readyPort, frame}, // the event before was not taken
		{readyPort | readyTAP, nil},
	}
	i := 0
	err = runTurns(t, p, func(ready readiness) (next, time.Duration, error) {
		if ready == 0 && i > 0 {
			return nextPark, 0, nil // what woke it was there to be seen the last time
		}
		if ready != steps[i].sees {
			t.Errorf("turn %d: ready is %b, want %b", i, ready, steps[i].sees)
		}
		if steps[i].make == nil {
			return nextEnd, 0, nil
		}
		steps[i].make()
		time.Sleep(2 * time.Millisecond) // the netpoller sees it before the park
		i++
		return nextPark, 0, nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestParkEndsAfterItsPauseAndNoLaterOneDoes(t *testing.T) {
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	const pause = 20 * time.Millisecond
	begun := time.Now()
	var seen []readiness
	if err := runTurns(t, p, func(ready readiness) (next, time.Duration, error) {
		seen = append(seen, ready)
		switch len(seen) {
		case 1:
			return nextPark, pause, nil
		case 2: // the wake-up ends the park, and the time-out is nobody's then
			if took := time.Since(begun); took < pause {
				t.Errorf("parked for %v, not %v", took, pause)
			}
			p.wake()
			return nextPark, 10 * pause, nil
		case 3:
			time.AfterFunc(20*pause, p.wake)
			return nextPark, 0, nil
		}
		return nextEnd, 0, nil
	}); err != nil {
		t.Error(err)
	}
	if want := []readiness{0, readyTimeout, readyWake, readyWake}; !slices.Equal(seen, want) {
		t.Errorf("ready was %b, want %b", seen, want)
	}
}

func TestErrorOfATurnEndsTheWorker(t *testing.T) {
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	broken := errors.New("broken")
	if err := runTurns(t, p, func(readiness) (next, time.Duration, error) { return nextLook, 0, broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	p.file.Close()
	if err := runTurns(t, p, func(readiness) (next, time.Duration, error) { return nextPark, 0, nil }); err == nil {
		t.Error("a closed poller parks")
	}
}

// busyWorkers runs n pollers whose turns take a quantum each and never end, until the test
// does. Each turn calls during.
func busyWorkers(t *testing.T, n int, during func()) {
	t.Helper()
	var ended atomic.Bool
	var all sync.WaitGroup
	for range n {
		p, err := newPoller()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.close)
		all.Go(func() {
			if err := p.run(func(readiness) (next, time.Duration, error) {
				if ended.Load() {
					return nextEnd, 0, nil
				}
				for began := time.Now(); time.Since(began) < quantum; {
				}
				during()
				p.spend(share)
				return nextAgain, 0, nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		ended.Store(true)
		all.Wait()
	})
}

// What is counted is the turns of the others from when something becomes ready for a worker
// until it sees that. In a round each of them has one; left to itself, Go gives the worker
// its turn after some thousands.
func TestWorkersThatAreAlwaysBusyLetOneThatWakesHaveItsTurn(t *testing.T) {
	const busy, wakes = 16, 25
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	quiet, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(quiet.close)
	port, takePort := newCounter(t, quiet, readyPort, 0)
	var turns, wokenAt atomic.Int64
	waited := make(chan int64, wakes)
	ended := make(chan error, 1)
	go func() {
		n := 0
		ended <- quiet.run(func(ready readiness) (next, time.Duration, error) {
			if ready&readyPort == 0 {
				return nextPark, 0, nil
			}
			takePort()
			waited <- turns.Load() - wokenAt.Swap(0)
			if n++; n == wakes {
				return nextEnd, 0, nil
			}
			return nextPark, 0, nil
		})
	}()
	busyWorkers(t, busy, func() {
		if n := turns.Add(1); n%(10*busy) == 0 && wokenAt.CompareAndSwap(0, n) {
			port()
		}
	})
	select {
	case err = <-ended:
	case <-time.After(time.Minute):
		t.Fatalf("it saw %d of %d in a minute", len(waited), wakes)
	}
	if err != nil {
		t.Fatal(err)
	}
	close(waited)
	var all []int64
	for n := range waited {
		all = append(all, n)
	}
	slices.Sort(all)
	if median := all[wakes/2]; median > 10*busy {
		t.Errorf("it waited for %d turns of %d others, median %d", all, busy, median)
	}
}

func TestWorkerIsOfTheCrowdUntilItParks(t *testing.T) {
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	before := crowd.Load()
	want := []int32{0, 1, 1, 0, 0, 1} // at the begin of each turn, in the crowd
	i := 0
	if err := runTurns(t, p, func(readiness) (next, time.Duration, error) {
		if n := crowd.Load() - before; n != want[i] {
			t.Errorf("turn %d: %d of the crowd, want %d", i, n, want[i])
		}
		switch i++; i {
		case 1, 2, 5:
			p.spend(share)
			return nextAgain, 0, nil
		case 3:
			p.wake()
			return nextPark, 0, nil
		case 4:
			p.spend(share / 2)
			return nextAgain, 0, nil
		}
		return nextEnd, 0, nil
	}); err != nil {
		t.Error(err)
	}
	if n := crowd.Load(); n != before {
		t.Errorf("%d workers are left in the crowd", n-before)
	}
}

func TestQueuesDoOneBatchAtATimeWhileOthersWait(t *testing.T) {
	const frames = 3 * txBatch
	tx, rx := newTxRig(t, AllFeatures(), fullMaps), newRxRig(t, fullMaps)
	for i := range frames {
		tx.feed(tap.VirtioHeader{}, patterned(60, uint64(i)))
		rx.send(0, nil, 0, patterned(60, uint64(i)))
	}
	rx.back.Push()
	tx.q.hurried, rx.q.hurried = true, true
	for n := txBatch; n <= frames; n += txBatch {
		for name, service := range map[string]func() (bool, error){"tx": tx.q.service, "rx": rx.q.service} {
			if more, err := service(); err != nil || !more {
				t.Errorf("%s: batch of %d frames: more %t, %v", name, n, more, err)
			}
		}
		if got := [2]uint64{tx.q.own[cPackets], rx.q.own[cPackets]}; got != [2]uint64{uint64(n), uint64(n)} {
			t.Errorf("%d frames were carried, want %d each", got, n)
		}
	}
}
