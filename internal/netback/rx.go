package netback

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
	"go.uber.org/zap"
)

const (
	// rxBatch is how many small frames are read from the port at once.
	rxBatch = 32
	// rxRoom is the size of a buffer for one frame, virtio header included: a TAP
	// cuts what does not fit, without a word. It is no multiple of a power of two, so
	// that the beginnings of the buffers do not share a cache set.
	rxRoom = tap.VirtioHeaderSize + 65536 + 2*netif.PageSize + 64
)

// rxWorker carries one queue's frames from the port to the guest. All but waiting
// belongs to its goroutine.
type rxWorker struct {
	q       *queue
	ring    *ring.Back[netif.RxSlot]
	pages   pageCache
	events  Events // nil if the tx worker has the one channel
	channel xen.Port
	wait    *waiter
	port    PortQueue

	// waiting says that a frame waits for slots: an event concerns this worker.
	waiting atomic.Bool

	bufs    [][]byte // rxBatch of rxRoom bytes
	sizes   [rxBatch]int
	next, n int  // frames read and not yet given to the guest: bufs[next:n]
	reads   int  // since the last wait
	empty   bool // the port had no more frames at the last read

	blockedAt time.Time // since when it waits; zero: it does not
	lastRx    time.Time // when a frame last got through (last_rx_time)
	stalled   bool
	placed    int // frames put since the last push

	direct   directReader
	segment  []byte   // of a super-frame that is cut here
	scribble [][]byte // pages to be changed after the push, by RxScribble
	masked   bool     // an event was read, and is not yet unmasked
	ports    [4]xen.Port
}

func (w *rxWorker) init() {
	memory := make([]byte, rxBatch*rxRoom)
	w.bufs = make([][]byte, rxBatch)
	for i := range w.bufs {
		w.bufs[i] = memory[i*rxRoom : (i+1)*rxRoom : (i+1)*rxRoom]
	}
}

// loop is the worker's life. It ends when the queue stops.
func (w *rxWorker) loop() {
	w.lastRx = time.Now()
	w.ready()
	w.run()
	for !w.q.stopping.Load() {
		what, err := w.wait.wait(w.timeout())
		if err != nil {
			w.q.vif.log.Error("rx worker cannot wait", zap.Error(err))
			return
		}
		if what&readyEvent != 0 {
			w.event()
		}
		w.run()
		if w.masked {
			w.masked = false
			w.events.Unmask(w.channel)
		}
	}
}

// event takes the event that is pending on the queue's own rx channel.
func (w *rxWorker) event() {
	n, err := w.events.Read(w.ports[:])
	if n == 0 || err != nil {
		return
	}
	w.masked = true
	w.q.counters.rxEvents.Add(1)
	if !w.waiting.Load() {
		w.q.counters.rxSpurious.Add(1)
	}
}

// poke tells the worker of an event that the tx worker took, and tells whether it
// waits for one.
func (w *rxWorker) poke() bool {
	if !w.waiting.Load() {
		return false
	}
	w.wait.wake()
	return true
}

// run works until the port is empty or the ring is full.
func (w *rxWorker) run() {
	vif := w.q.vif
	w.reads, w.empty = 0, false
	for !w.q.stopping.Load() {
		switch {
		case vif.Disabled():
			if w.discard() == 0 {
				return
			}
		case vif.faults.take(RxIgnore):
			return
		case w.next < w.n:
			if !w.place() && !w.block() {
				w.push()
				return
			}
		case w.empty:
			w.push()
			return
		case w.direct.wanted && w.readDirect():
		default:
			w.push()
			w.read()
		}
	}
}

// bursts is how many frames the first reads after a wait ask for, and all further
// ones: most often there is but one, and a read of one costs the least.
var bursts = [...]int{1, 1, 8, rxBatch}

// read fills the buffers.
func (w *rxWorker) read() {
	burst := bursts[min(w.reads, len(bursts)-1)]
	if w.direct.wanted {
		burst = 1 // super-frames: the slots ran out, the rest stays at the port
	}
	n, err := w.port.Read(w.bufs[:burst], w.sizes[:burst])
	if err != nil {
		w.q.vif.log.Debug("read from port", zap.Error(err))
	}
	w.empty = n < burst || err != nil
	w.next, w.n = 0, n
	w.reads++
}

// place gives the next frame to the guest, or drops it. It returns false if there
// are not enough slots for it.
func (w *rxWorker) place() bool {
	b := w.bufs[w.next][:w.sizes[w.next]]
	needed, drop := w.put(b)
	if needed > 0 {
		return false
	}
	if drop != 0 {
		w.drop(drop)
	} else {
		w.direct.saw(len(b))
	}
	w.next++
	w.blockedAt = time.Time{}
	w.waiting.Store(false)
	return true
}

// block is for a frame that lacks slots. It asks for an event at the next request, unless
// the backend never does, and returns true if one is there already, or if the frame has become too old.
func (w *rxWorker) block() bool {
	now := time.Now()
	if w.blockedAt.IsZero() {
		w.blockedAt = now
	}
	if now.Sub(w.blockedAt) >= w.q.vif.drainTimeout() {
		w.expire()
		return true
	}
	w.waiting.Store(true)
	avail, err := w.ring.Requests()
	if err != nil {
		w.fatal(err)
		return false
	}
	if !w.q.vif.options.NoRxEvents && w.ring.NotifyAfter(avail+1) {
		return true
	}
	if stall := w.q.vif.stallTimeout(); stall > 0 && !w.stalled && now.Sub(w.lastRx) > stall {
		w.stalled = true
		w.q.vif.stall()
	}
	return false
}

// expire drops what was read before the wait began (xenvif_rx_queue_drop_expired).
func (w *rxWorker) expire() {
	for ; w.next < w.n; w.next++ {
		w.drop(DropExpired)
	}
	w.blockedAt = time.Time{}
	w.waiting.Store(false)
	w.ready()
}

// ready ends a stall, as in Linux also when the queue has merely become empty.
func (w *rxWorker) ready() {
	if w.stalled {
		w.stalled = false
		w.lastRx = time.Now()
		w.q.vif.unstall()
	}
}

// timeout is how long the worker may wait: to the end of its first frame's patience,
// or of its own with the guest.
func (w *rxWorker) timeout() time.Duration {
	if w.blockedAt.IsZero() {
		return 0
	}
	at := w.blockedAt.Add(w.q.vif.drainTimeout())
	if stall := w.q.vif.stallTimeout(); stall > 0 && !w.stalled {
		if s := w.lastRx.Add(stall + time.Millisecond); s.Before(at) {
			at = s
		}
	}
	return max(time.Until(at), 1)
}

// discard drops what the port has: the vif is disabled.
func (w *rxWorker) discard() int {
	n := w.n - w.next
	if n == 0 {
		n, _ = w.port.Read(w.bufs, w.sizes[:])
	}
	w.q.counters.drops[DropDisabled].Add(uint64(n))
	w.next, w.n, w.blockedAt = 0, 0, time.Time{}
	w.waiting.Store(false)
	return n
}

func (w *rxWorker) drop(why DropReason) { w.q.counters.drops[why].Add(1) }

func (w *rxWorker) fatal(err error) {
	w.q.vif.disable(fmt.Errorf("queue %d: rx ring: %w: %w", w.q.index, ErrImpossibleRequests, err))
}

// push publishes what was put and tells the frontend if it asked for it.
func (w *rxWorker) push() {
	if w.placed == 0 {
		return
	}
	w.q.counters.rxFrames.Add(uint64(w.placed))
	w.placed = 0
	w.lastRx = time.Now()
	w.ready()
	w.q.counters.rxPushes.Add(1)
	defer w.scribbleOver()
	if !w.ring.Push() || w.q.vif.faults.take(RxMute) {
		return
	}
	w.q.counters.rxNotifies.Add(1)
	if w.events != nil {
		w.events.Notify(w.channel)
	} else {
		w.q.tx.events.Notify(w.channel)
	}
}

// close frees what the worker has; its goroutine has ended.
func (w *rxWorker) close() error {
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
