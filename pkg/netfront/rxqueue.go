package netfront

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

const (
	// rxBatch and rxBatchBytes bound how many frames go to the TAP at once. Small
	// frames gain from a batch, super-frames lose by it.
	rxBatch      = 32
	rxBatchBytes = 64 << 10
	// rxRounds bounds the batches of one service call.
	rxRounds = 8
	// rxSlots is how many data slots a frame has at most. Nothing that follows the
	// protocol sends more to a frontend than a backend must take.
	rxSlots = netif.SlotsMin
	// rxExtras is how many extras a frame has at most: one of each type.
	rxExtras = 5
	// headRoom is the size of a private head: the virtio header, and a frame's
	// headers at their longest.
	headRoom = 512
)

// frameWriter is where an rxQueue's frames go. [tap.Writer] is one, and says what
// Write promises.
type frameWriter interface {
	Write(frames [][]unix.Iovec, res []int32) error
}

// rxPart is one slot's data.
type rxPart struct {
	m      *busdma.Map
	offset int
	length int
}

// rxQueue carries frames from the rx ring to the TAP. One goroutine owns it.
//
// All its maps are posted at all times, except while their frame is being written:
// a frame goes from the pages that the backend filled to the TAP in one writev, and
// the same maps are posted again, in ring order. Only the headers are copied
// before, since the backend can change the pages until then and the kernel parses
// what it is given.
type rxQueue struct {
	counters
	recording
	state  *rxState
	ring   *ring.Front[netif.RxSlot]
	tag    *busdma.Tag
	slab   *busdma.Slab
	pool   *busdma.Pool
	out    frameWriter
	notify func() error
	maps   gauge
	// consumed is how many responses were taken, for the watchdog.
	consumed atomic.Uint32

	heads   []byte // rxBatch private heads of headRoom bytes, not the Go heap's
	iovecs  []unix.Iovec
	frames  [][]unix.Iovec
	lengths []int // of the frames
	results []int32
	parts   []rxPart // of the frame at hand

	hurried bool   // others wait for the worker: one batch at a time
	partial uint32 // responses of a frame whose end is not there yet
}

// newRxQueue makes a queue whose ring lies in page and whose maps are slab's pages,
// and fills the ring with them. The queue owns tag, slab and pool from
// then on.
func newRxQueue(state *rxState, page []byte, tag *busdma.Tag, slab *busdma.Slab, out frameWriter, notify func() error) (*rxQueue, error) {
	q, err := rxQueueOn(state, tag, slab, out, notify)
	if err != nil {
		return nil, err
	}
	if err := q.begin(page); err != nil {
		return nil, errors.Join(err, unix.Munmap(q.heads))
	}
	return q, nil
}

// begin makes ring and pool.
func (q *rxQueue) begin(page []byte) (err error) {
	if q.ring, err = ring.NewFront[netif.RxSlot](page, &q.state.ring); err != nil {
		return fmt.Errorf("make rx ring: %w", err)
	}
	if q.pool, err = busdma.NewPool(q.tag, q.slab, &q.state.pool); err != nil {
		return fmt.Errorf("make rx pool: %w", err)
	}
	// Consecutive slots get consecutive pages, so that a frame's pages are mostly
	// one piece of memory.
	for range q.slab.Pages() {
		m, ok := q.pool.Take()
		if !ok {
			break
		}
		if err := q.post(m); err != nil {
			return err
		}
	}
	q.ring.Push() // nobody to notify: the backend looks when it attaches
	q.publish()
	return nil
}

// rxQueueOn makes what is around ring and pool.
func rxQueueOn(state *rxState, tag *busdma.Tag, slab *busdma.Slab, out frameWriter, notify func() error) (*rxQueue, error) {
	q := &rxQueue{state: state, tag: tag, slab: slab, out: out, notify: notify}
	var err error
	if q.heads, err = unix.Mmap(-1, 0, rxBatch*headRoom, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return nil, fmt.Errorf("map rx heads: %w", err)
	}
	q.iovecs = make([]unix.Iovec, 0, rxBatch*(rxSlots+1))
	q.frames = make([][]unix.Iovec, 0, rxBatch)
	q.lengths = make([]int, 0, rxBatch)
	q.results = make([]int32, rxBatch)
	q.parts = make([]rxPart, 0, rxSlots)
	return q, nil
}

// post puts m on the ring for the backend to fill.
func (q *rxQueue) post(m *busdma.Map) error {
	s, err := q.tag.Load(m, m.Page())
	if err != nil {
		return fmt.Errorf("load rx map: %w", err)
	}
	if err := q.tag.Publish(m); err != nil {
		return fmt.Errorf("publish rx map: %w", err)
	}
	q.state.posted[q.ring.Produced()&(q.ring.Size()-1)] = uint16(m.Index())
	crashPoint(crashRxPost)
	slot := netif.RxRequest{ID: uint16(m.Index()), Ref: uint32(s.Ref)}.Slot()
	q.ring.Put(&slot)
	return nil
}

// service hands on the frames that are there, until there are no more or it has
// done its share. More says that it would go on at once.
func (q *rxQueue) service() (more bool, err error) {
	q.look()
	rounds := rxRounds
	if q.hurried {
		rounds = 1
	}
	for range rounds {
		waiting, err := q.ring.Responses()
		if err != nil {
			return false, violation("rx %w", err)
		}
		if waiting == q.partial {
			if waiting == q.ring.Size()-q.ring.Free() {
				return false, violation("rx frame that takes all %d buffers and goes on", waiting)
			}
			return q.ring.NotifyAfter(waiting + 1), nil
		}
		if err := q.batch(waiting); err != nil {
			return false, err
		}
	}
	return true, nil
}

// batch hands a batch of frames out of the waiting responses to the TAP, and posts
// their maps again.
func (q *rxQueue) batch(waiting uint32) error {
	q.rec.clock()
	q.iovecs, q.frames, q.lengths = q.iovecs[:0], q.frames[:0], q.lengths[:0]
	var taken uint32
	total := 0
	q.partial = 0
	for taken < waiting && len(q.frames) < rxBatch && total < rxBatchBytes {
		f, next, err := q.gather(taken, waiting)
		if err != nil {
			return err
		}
		if next == taken { // the frame's end is not there yet
			q.partial = waiting - taken
			q.rec.forget()
			break
		}
		taken = next
		drop := f.drop
		if drop == 0 {
			drop = q.frame(f)
		}
		q.record(f, drop)
		if drop != 0 {
			q.add(drop, 1)
			continue
		}
		total += f.length
	}
	if taken == 0 {
		return nil
	}
	// Before the write: a frame that a process dies over is lost, and not handed in
	// again by the next one.
	first := q.ring.Consumed()
	q.ring.Consume(taken)
	crashPoint(crashRxConsume)
	if len(q.frames) > 0 {
		if err := q.write(); err != nil {
			return err
		}
	}
	crashPoint(crashRxWrite)
	return q.repost(first, taken)
}

// write hands the gathered frames to the TAP. A frame that it refuses (the link is
// down, a header that it does not like) is lost and counted, as on any NIC.
func (q *rxQueue) write() error {
	if err := q.out.Write(q.frames, q.results[:len(q.frames)]); err != nil {
		return fmt.Errorf("write to the TAP: %w", err)
	}
	for i, n := range q.lengths {
		if q.results[i] < 0 {
			q.add(cDropTapError, 1)
			q.rec.lose(i, cDropTapError)
			continue
		}
		q.add(cPackets, 1)
		q.add(cBytes, uint64(n))
	}
	return nil
}

// repost posts the maps of the n consumed responses from first on again, and publishes
// them.
func (q *rxQueue) repost(first, n uint32) error {
	if err := q.repostMaps(first, n); err != nil {
		return err
	}
	q.add(cSlots, uint64(n))
	crashPoint(crashRxRepost)
	return q.push()
}

// repostMaps posts the maps in the n ring slots from first on again, in ring order.
func (q *rxQueue) repostMaps(first, n uint32) error {
	for i := range n {
		m, ok := q.pool.At(int(q.state.posted[(first+i)&(q.ring.Size()-1)]))
		if !ok {
			return fmt.Errorf("rx ring slot %d has no map", first+i)
		}
		if err := q.tag.Unload(m); err != nil {
			return fmt.Errorf("rx map: %w", err)
		}
		if err := q.post(m); err != nil {
			return err
		}
	}
	return nil
}

// push publishes the requests and notifies the backend if it waits for them: if it has
// asked for that, or has answered all requests that it could see. QEMU's never asks (net_rx_ok
// of hw/net/xen_nic.c), and a frame that came when the ring was empty would wait for the next
// event, whatever it is for. Linux's asks whenever a frame waits; for it the event is one too
// many only when its last frame took the last slot.
func (q *rxQueue) push() error {
	n := q.ring.Unpublished()
	seen := q.ring.Produced() - n
	asked := q.ring.Push()
	asked = asked || q.ring.Answered(seen)
	crashPoint(crashRxPublish)
	q.rec.publish()
	return q.pushed(n, asked, q.notify)
}

// publish makes the queue's figures visible.
func (q *rxQueue) publish() {
	q.rec.publish()
	q.counters.publish()
	q.maps.publish(mapCounts(q.pool))
	q.consumed.Store(q.ring.Consumed())
}

// close ends the queue, like [txQueue.close].
func (q *rxQueue) close() error {
	return errors.Join(closeQueue(q.pool, q.slab, q.tag), unix.Munmap(q.heads))
}

// head is the i-th private head.
func (q *rxQueue) head(i int) []byte {
	return q.heads[i*headRoom : (i+1)*headRoom : (i+1)*headRoom]
}

// headFrame is where the frame begins in a private head.
const headFrame = tap.VirtioHeaderSize
