package netfront

import (
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
