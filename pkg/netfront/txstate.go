package netfront

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// txState is what the next process needs of a txQueue to go on: plain numbers, without
// pointers, in memory that outlives the process. A process can be killed between any
// two instructions; the order of the stores here is what makes that safe.
//
//   - A slot is put before its map is in flight, so that a map which is in flight but
//     whose slot is beyond the last whole frame is known from ids, and taken back.
//   - Hand is one word: that a frame is on the ring and that it is not in hand any
//     more becomes true at one instant. So no frame is sent twice, and none that was
//     committed is lost.
//   - Only whole frames are published, later. What is put and whole, the next process
//     publishes.
//   - A response's map is pooled before the response is consumed. A response that
//     names a map which is not in flight has had this done by the process that died.
type txState struct {
	ring ring.FrontState
	pool busdma.PoolState
	hand uint64                 // a packed txHand and the request behind the last whole frame
	ids  [busdma.MaxMaps]uint16 // map in each ring slot that was put; noMap is an extra
	lens [txBatch]uint32        // of the frames in the private buffers, virtio header included
}

// noMap is an extra's place in the table of ids.
const noMap = 0xffff

// txHand says which frames are in hand: bufs[next:filled] were read and not sent yet.
type txHand struct {
	next, filled uint8
	segments     uint16 // sent of bufs[next], when it is cut here
}

// pack puts it into one word with whole, the index of the request behind the last whole
// frame.
func (h txHand) pack(whole uint32) uint64 {
	return uint64(whole)<<32 | uint64(h.next)<<24 | uint64(h.filled)<<16 | uint64(h.segments)
}

func unpackHand(v uint64) (h txHand, whole uint32) {
	return txHand{next: uint8(v >> 24), filled: uint8(v >> 16), segments: uint16(v)}, uint32(v >> 32)
}

// commit makes it true that what was put on the ring is whole frames, and h what is in
// hand now.
func (q *txQueue) commit(h txHand) {
	q.hand = h
	atomic.StoreUint64(&q.state.hand, h.pack(q.ring.Produced()))
	crashPoint(crashTxCommit)
}

// put writes a slot, for the map with number id.
func (q *txQueue) put(slot *netif.TxSlot, id uint16) {
	q.state.ids[q.ring.Produced()&(q.ring.Size()-1)] = id
	q.ring.Put(slot)
	crashPoint(crashTxPut)
}

// txMemory is a txQueue's memory outside Go's heap.
type txMemory struct {
	state *txState
	arena []byte       // txBatch buffers of frameRoom bytes, and one for a segment
	close func() error // for whom the queue has it alone
}

// arenaSize is the size of an arena in bytes. Most of it is never touched.
const arenaSize = (txBatch + 1) * frameRoom

// newTxMemory is memory that goes with the process.
func newTxMemory() (txMemory, error) {
	arena, err := unix.Mmap(-1, 0, arenaSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return txMemory{}, fmt.Errorf("map tx buffers: %w", err)
	}
	return txMemory{state: new(txState), arena: arena, close: func() error { return unix.Munmap(arena) }}, nil
}

// adoptTxQueue goes on where another process's queue was left, in the middle of any
// step. It fails with an error that wraps [ErrHandover] when that cannot be made sense of.
func adoptTxQueue(mem txMemory, page []byte, tag *busdma.Tag, slab *busdma.Slab, in frameReader, feat Features, notify func() error) (*txQueue, error) {
	q := txQueueOn(mem, tag, slab, in, feat, notify)
	hand, whole := unpackHand(atomic.LoadUint64(&q.state.hand))
	if err := q.checkHand(hand); err != nil {
		return nil, err
	}
	q.hand = hand
	var err error
	if q.ring, err = ring.AdoptFront[netif.TxSlot](page, &q.state.ring); err != nil {
		return nil, fmt.Errorf("%w: tx %w", ErrHandover, err)
	}
	put := q.ring.Produced()
	if err := q.ring.Rewind(whole); err != nil {
		return nil, fmt.Errorf("%w: tx %w", ErrHandover, err)
	}
	torn := make(map[int]bool) // maps of a frame that was being put
	for i := whole; i != put; i++ {
		torn[int(q.state.ids[i&(q.ring.Size()-1)])] = true
	}
	q.pool, err = busdma.AdoptPool(tag, slab, &q.state.pool, func(i int, was busdma.State) bool {
		return was == busdma.InFlight && !torn[i]
	})
	if err != nil {
		return nil, fmt.Errorf("%w: tx %w", ErrHandover, err)
	}
	q.adoptAges(whole)
	crashPoint(crashAdoptQueue)
	if err := q.settle(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHandover, err)
	}
	q.ring.Push()
	q.publish()
	return q, nil
}

// adoptAges begins to watch the maps in flight. Since when they are is not known, and
// of which request each is only from the table of ids, which goes back one ring.
func (q *txQueue) adoptAges(whole uint32) {
	var index [busdma.MaxMaps]uint32
	first := whole - q.ring.Size()
	for i := range index {
		index[i] = first
	}
	for i := first; i != whole; i++ {
		if id := q.state.ids[i&(q.ring.Size()-1)]; int(id) < len(index) {
			index[id] = i
		}
	}
	for i := range q.slab.Pages() {
		if m, ok := q.pool.At(i); ok && m.State() == busdma.InFlight {
			q.ages.put(i, index[i], 0)
		}
	}
}

// checkHand checks the frames in hand, whose lengths are used without a look
// afterwards.
func (q *txQueue) checkHand(h txHand) error {
	if h.next > h.filled || h.filled > txBatch {
		return fmt.Errorf("%w: frames %d to %d in hand, of %d", ErrHandover, h.next, h.filled, txBatch)
	}
	for i, n := range q.state.lens[:h.filled] {
		if n > frameRoom {
			return fmt.Errorf("%w: frame %d in hand has %d bytes", ErrHandover, i, n)
		}
	}
	return nil
}

// settle takes the responses that are there, of which the process that died may have
// done some, and counts the extras that are out: what is out and is no map.
func (q *txQueue) settle() error {
	n, err := q.ring.Responses()
	if err != nil {
		return violation("tx %w", err)
	}
	for i := range n {
		_, m, err := q.response(i)
		if err != nil {
			return err
		}
		if m == nil || m.State() != busdma.InFlight {
			continue
		}
		if err := q.release(m); err != nil {
			return err
		}
	}
	q.ring.Consume(n)
	out, inFlight := q.ring.Size()-q.ring.Free(), uint32(q.pool.Counts().InFlight)
	if inFlight > out {
		return fmt.Errorf("tx: %d maps in flight, %d requests", inFlight, out)
	}
	q.extras = out - inFlight
	return nil
}
