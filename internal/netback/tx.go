package netback

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
	"go.uber.org/zap"
)

// txBatch is how many frames go to the port with one Write.
const txBatch = 32

// txWorker carries one queue's frames from the guest to the port. All of it belongs
// to its goroutine.
type txWorker struct {
	q       *queue
	ring    *ring.Back[netif.TxSlot]
	pages   pageCache
	events  Events
	channel xen.Port
	wait    *waiter
	port    PortQueue
	credit  credit
	newRate atomic.Pointer[rate] // for credit, from the vif's goroutine

	frames [txBatch]txFrame
	pushed uint32            // index of the last response that was published
	n      int               // how many of frames are used
	out    [txBatch]Outgoing // those of them that go to the port
	outOf  [txBatch]*txFrame // whose they are
	errs   [txBatch]error    // what the port said
	held   []*heldFrame      // by HoldTx, oldest first
	ids    [256]bool         // requests that were taken and not answered, for TxIDNotInFlight
	lastID uint16            // of the response before
	masked bool              // an event was read, and is not yet unmasked
	lost   bool              // LostEOI: the next event's EOI will be lost
	ports  [4]xen.Port
}

// loop is the worker's life. It ends when the queue stops.
func (w *txWorker) loop() {
	again := w.run()
	for !w.q.stopping.Load() {
		what, err := w.wait.wait(again)
		if err != nil {
			w.q.vif.log.Error("tx worker cannot wait", zap.Error(err))
			return
		}
		event := what&readyEvent != 0
		if event && w.loseEOI() {
			continue
		}
		// The ring first and the event after it: frames must not wait for the read.
		// What came in between is found by looking again.
		found := w.work()
		again = w.run()
		if event && w.event(found) {
			again = w.run()
		}
		// Out of credit the event stays masked until the next interval, as
		// Linux's EOI does.
		if w.masked && !w.credit.pending {
			w.masked = false
			w.events.Unmask(w.channel)
		}
	}
	w.release(true)
}

// loseEOI is the race of xen-netback's one channel for both rings: the rx thread
// ends the very first event before it knows its own interrupt number. Nobody looks
// at the ring for it, and the port stays masked.
func (w *txWorker) loseEOI() bool {
	if !w.lost {
		return false
	}
	w.lost = false
	n, _ := w.events.Read(w.ports[:])
	return n > 0
}

// work tells whether an event now would be for something, and tells the rx worker
// if it is for it.
func (w *txWorker) work() bool {
	waiting, err := w.ring.Requests()
	return w.q.shared && w.q.rx.poke() || err != nil || waiting > 0
}

// event takes the event that is pending, and returns whether there was one. Found
// says whether there was something to do.
func (w *txWorker) event(found bool) bool {
	n, err := w.events.Read(w.ports[:])
	if n == 0 || err != nil {
		return false
	}
	w.masked = true
	w.q.counters.txEvents.Add(1)
	if !w.work() && !found {
		w.q.counters.txSpurious.Add(1)
	}
	return true
}

// run works until the ring is empty. If it has to stop before that, or frames are
// held, it returns how long to wait at most.
func (w *txWorker) run() time.Duration {
	faults := &w.q.vif.faults
	w.release(false)
	if r := w.newRate.Swap(nil); r != nil {
		w.credit.change(*r)
	}
	for !w.q.vif.Disabled() && !w.q.stopping.Load() {
		if faults.take(TxIgnore) {
			break
		}
		waiting, err := w.ring.Requests()
		if err != nil {
			w.fatal(fmt.Errorf("%w: %w", ErrImpossibleRequests, err))
			break
		}
		if waiting == 0 {
			if !w.ring.NotifyAfter(1) {
				break
			}
			continue
		}
		pause := w.collect(waiting)
		w.deliver()
		w.push()
		if pause > 0 {
			w.q.counters.creditWaits.Add(1)
			return w.untilHeld(pause)
		}
	}
	return w.untilHeld(0)
}

// untilHeld shortens a wait, 0 for none, to the time when held frames are due.
func (w *txWorker) untilHeld(pause time.Duration) time.Duration {
	if len(w.held) == 0 {
		return pause
	}
	due := max(time.Until(w.held[0].due), 1)
	if pause == 0 {
		return due
	}
	return min(pause, due)
}

// collect takes up to a batch of frames off the ring, which has waiting requests. It
// returns how long to wait for credit, 0 if it did not run out.
func (w *txWorker) collect(waiting uint32) time.Duration {
	w.n = 0
	hold := w.q.vif.faults.holdFor()
	slots := uint64(0)
	defer func() { w.q.counters.txSlots.Add(slots) }()
	for waiting > 0 && w.n < txBatch {
		if w.credit.limited() {
			size := netif.ParseTxRequest(w.ring.Request(0)).Size
			if pause, ok := w.credit.take(int(size), time.Now()); !ok {
				return pause
			}
		}
		f := &w.frames[w.n]
		drop, err := f.parse(w.ring, waiting)
		if err == nil {
			err = w.q.vif.options.Features.check(&f.frame)
		}
		if err != nil {
			w.fatal(err)
			return 0
		}
		w.ring.Consume(f.slots)
		w.taken(&f.frame)
		waiting -= f.slots
		slots += uint64(f.slots)
		switch {
		case drop != 0:
			w.drop(drop)
			w.answerAll(&f.frame, netif.StatusError)
		case f.mcast.Type != netif.ExtraNone:
			w.respond(f.first.ID, w.q.vif.mcast.apply(f.mcast), f.extras)
		default:
			f.prepare(&w.pages)
			if hold > 0 && f.drop == 0 {
				w.hold(f, hold)
			} else {
				w.n++
			}
		}
	}
	return 0
}

// taken notes the frame's ids as in flight.
func (w *txWorker) taken(f *frame) {
	w.ids[f.first.ID&255] = true
	for _, id := range f.ids[:f.taken] {
		w.ids[id&255] = true
	}
}

// deliver hands the collected frames to the port and answers their slots.
func (w *txWorker) deliver() {
	n := 0
	for i := range w.frames[:w.n] {
		f := &w.frames[i]
		if f.csumFixup {
			w.q.counters.csumFixups.Add(1)
		}
		if f.drop == 0 {
			w.out[n] = f.outgoing()
			w.outOf[n] = f
			n++
		}
	}
	w.write(w.out[:n], w.outOf[:n])
	for i := range w.frames[:w.n] {
		f := &w.frames[i]
		if f.drop != 0 {
			w.drop(f.drop)
		}
		w.answer(f)
	}
	w.n = 0
}

// write hands frames to the port and notes what it refuses as the frame's drop.
func (w *txWorker) write(out []Outgoing, of []*txFrame) {
	if len(out) == 0 {
		return
	}
	w.port.Write(out, w.errs[:len(out)])
	frames, bytes := uint64(0), uint64(0)
	for i, f := range of {
		if w.errs[i] != nil {
			f.drop = DropPort
			continue
		}
		frames++
		bytes += uint64(f.size)
	}
	w.q.counters.txFrames.Add(frames)
	w.q.counters.txBytes.Add(bytes)
}

func (w *txWorker) drop(why DropReason) { w.q.counters.drops[why].Add(1) }

// fatal disables the vif.
func (w *txWorker) fatal(err error) {
	w.q.vif.disable(fmt.Errorf("queue %d: %w", w.q.index, err))
}

// close frees what the worker has; its goroutine has ended.
func (w *txWorker) close() error {
	w.pages.close()
	var err error
	if w.events != nil {
		err = w.events.Close()
	}
	if w.wait != nil {
		w.wait.close()
	}
	return err
}
