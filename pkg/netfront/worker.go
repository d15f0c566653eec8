package netfront

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// worker is the goroutine that owns a txQueue, an rxQueue, or both when they share
// an event channel: then there is one event to wait for, and one goroutine must
// write it back after both have looked.
type worker struct {
	poll   *poller
	events xen.EventFile
	ports  []xen.Port // masked until written back; one more than there are
	tx     *txQueue   // nil if not this worker's
	rx     *rxQueue   // nil if not this worker's
	tapFD  int        // tx's
	gather gathering  // tx's

	control atomic.Uint32
	frames  atomic.Pointer[[][]byte] // to inject, that were not taken yet
	dump    atomic.Pointer[dumpRequest]

	left     [][]byte      // frames to inject for which there was no room yet
	spurious int           // events in a row that found nothing
	pending  int           // ports[:pending] were delivered and not written back
	running  bool          // started, and stop did not see it end
	started  atomic.Bool   // before that nobody answers
	done     chan struct{} // closed when run has returned
	pong     chan struct{} // gets the answer to controlPing
}

// Bits of a worker's control word.
const (
	controlStop = 1 << iota
	controlPing // say that it is alive
	controlKick // notify the backend and look at everything, whatever the events say
	controlDump // fill in what dump asks for
)

// newWorker makes a worker without a queue, which has file from then on, even after an
// error.
func newWorker(file xen.EventFile) (*worker, error) {
	poll, err := newPoller()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	// The spare port is for events.Read, which gives the descriptor's readiness back
	// only if it has room, also while a port stays masked for a storm's pause.
	w := &worker{poll: poll, events: file, ports: make([]xen.Port, 1), done: make(chan struct{}), pong: make(chan struct{}, 1)}
	if err := poll.add(file.FD(), readyPort, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for event channels: %w", err), w.close())
	}
	return w, nil
}

// bind allocates an event channel for the backend.
func (w *worker) bind(backend xen.DomID) (xen.Port, error) {
	port, err := w.events.Bind(backend)
	if err != nil {
		return 0, fmt.Errorf("bind event channel: %w", err)
	}
	w.ports = append(w.ports, 0) // room to read one more
	return port, nil
}

// adopt takes over an event channel of the worker's file. It is written back once: one
// that was delivered to a process which died over it stays masked otherwise.
func (w *worker) adopt(port xen.Port) error {
	if err := w.events.Unmask(port); err != nil {
		return fmt.Errorf("adopt event channel: %w", err)
	}
	w.ports = append(w.ports, 0)
	return nil
}

// notifier is the function that raises an event at the other end of port.
func (w *worker) notifier(port xen.Port) func() error {
	return func() error {
		if err := w.events.Notify(port); err != nil {
			return fmt.Errorf("notify the backend: %w", err)
		}
		return nil
	}
}

// watchTAP makes the worker wait for frames from the TAP. Edge-triggered: the queue
// remembers that there may be more, so that a TAP it cannot read for want of maps
// does not wake it.
func (w *worker) watchTAP(fd int) error {
	w.tapFD = fd
	return w.poll.add(fd, readyTAP, unix.EPOLLET)
}

// start runs the worker; failed gets its error, if that is not nil, after the last
// use of its queues.
func (w *worker) start(failed func(error)) {
	w.started.Store(true)
	go func() {
		err := w.guarded()
		close(w.done)
		if err != nil {
			failed(err)
		}
	}()
}

func (w *worker) run() error { return w.poll.run(w.turn) }

// turn does what there is to do.
func (w *worker) turn(ready readiness) (n next, pause time.Duration, err error) {
	if w.gather.ticks {
		ready &^= readyTimeout // a storm's pause is not over
	}
	c := w.control.Swap(0)
	if c&controlStop != 0 {
		w.publish()
		return nextEnd, 0, nil
	}
	if c&controlPing != 0 {
		select {
		case w.pong <- struct{}{}:
		default: // who asked before did not wait for it
		}
	}
	if c&controlKick != 0 {
		if err := w.kick(); err != nil {
			return nextEnd, 0, err
		}
	}
	event := false
	if ready&readyPort != 0 {
		if event, err = w.readEvents(); err != nil {
			return nextEnd, 0, err
		}
		crashPoint(crashEventRead)
	}
	before := w.progress()
	w.hurry(w.poll.hurried())
	more, err := w.service(ready)
	done := w.progress() - before
	w.poll.spend(int(done))
	w.publish()
	if c&controlDump != 0 {
		w.answerDump()
	}
	if err != nil {
		return nextEnd, 0, err // and the ports stay masked: a broken backend cannot storm
	}
	if err := w.writeBack(event, done != 0, ready); err != nil {
		return nextEnd, 0, err
	}
	switch {
	case !more:
		return nextPark, w.gather.until(w.pause()), nil
	case w.tx != nil && w.rx != nil:
		return nextLook, 0, nil // one queue's work could hide the other's
	}
	return nextAgain, 0, nil
}

// readEvents takes the ports that were delivered, until no other can be there: one that is
// raised while another is read makes the descriptor readable without waking anybody (see
// [xen.EventFile]), and a park is not preceded by a look.
func (w *worker) readEvents() (event bool, err error) {
	for {
		n, err := w.events.Read(w.ports[w.pending:])
		if err != nil {
			return event, fmt.Errorf("read events: %w", err)
		}
		w.pending += n
		event = event || n > 0
		if n == 0 || w.pending == len(w.ports)-1 {
			return event, nil
		}
	}
}

// service lets the queues work.
func (w *worker) service(ready readiness) (more bool, err error) {
	if w.tx != nil {
		if err := w.lookAtTAP(ready&readyTAP != 0); err != nil {
			return false, err
		}
		if more, err = w.tx.service(); err != nil {
			return false, err
		}
		ready, err := w.announce()
		if err != nil {
			return false, err
		}
		more = more || ready
	}
	if w.rx != nil {
		m, err := w.rx.service()
		if err != nil {
			return false, err
		}
		more = more || m
	}
	return more, nil
}

// lookAtTAP lets the tx queue read, if the time for it has come.
func (w *worker) lookAtTAP(edge bool) error {
	pause := time.Duration(w.tx.gather.Load())
	was := w.gather.on
	if !was && (pause == 0 || !edge) { // the usual case needs no clock
		w.tx.tapReady = w.tx.tapReady || edge
		return nil
	}
	if w.gather.look(time.Now(), pause, edge, w.tx.taken) {
		w.tx.tapReady = true
	}
	if w.gather.on == was {
		return nil
	}
	var events uint32
	if was {
		events = unix.EPOLLIN | unix.EPOLLET
	}
	if err := w.poll.change(w.tapFD, readyTAP, events); err != nil {
		return fmt.Errorf("wait for the TAP: %w", err)
	}
	return nil
}

// hurry has the queues do one batch at a time from now on, or a full share.
func (w *worker) hurry(on bool) {
	if w.tx != nil {
		w.tx.hurried = on
	}
	if w.rx != nil {
		w.rx.hurried = on
	}
}

// progress counts up when a queue consumes a response or produces a request.
func (w *worker) progress() (n uint32) {
	if w.tx != nil {
		n += w.tx.ring.Consumed() + w.tx.ring.Produced()
	}
	if w.rx != nil {
		n += w.rx.ring.Consumed()
	}
	return n
}

// kick notifies the backend, in case that an event was lost.
func (w *worker) kick() error {
	if w.tx != nil {
		if err := w.tx.notify(); err != nil {
			return err
		}
	}
	if w.rx != nil {
		if err := w.rx.notify(); err != nil {
			return err
		}
	}
	return nil
}

// counters are those that the worker's own figures go to.
func (w *worker) counters() *counters {
	if w.rx != nil {
		return &w.rx.counters
	}
	return &w.tx.counters
}

func (w *worker) publish() {
	if w.tx != nil {
		w.tx.publish()
	}
	if w.rx != nil {
		w.rx.publish()
	}
}

// tell sets bits of the control word and wakes the worker.
func (w *worker) tell(bits uint32) {
	w.control.Or(bits)
	w.poll.wake()
}

// close frees what newWorker made. The worker must not run any more.
func (w *worker) close() error {
	w.poll.close()
	return w.events.Close()
}
