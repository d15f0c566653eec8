package netfront

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

const (
	// txRun is how many contiguous maps hold [virtio header | largest frame]: 65535
	// and 12 bytes in 17 pages.
	txRun = (tap.VirtioHeaderSize + netif.MaxTxSize + netif.PageSize - 1) / netif.PageSize
	// txSlots is how many ring slots one frame takes at most: its pages and an extra.
	txSlots = txRun + 1
	// txBatch is how many small frames are read at once, at most. More than 32 gain
	// nothing (measured).
	txBatch = 32
	// frameRoom is the size of a private read buffer. No read starts with less
	// room than the largest frame, since a TAP cuts what does not fit, silently.
	frameRoom = txRun * netif.PageSize
	// superFrame is the length from which a frame is better read in place: above a
	// page, where a copy begins to cost more than a map that is held.
	superFrame = netif.PageSize
	// txPublish is how many slots are published at once while more frames come: a
	// few super-frames, so that the backend is at work before the TAP is empty, and
	// is not woken for each.
	txPublish = 64
	// txRounds bounds the batches of one service call, so that the worker looks at
	// its control word and its other queue in between.
	txRounds = 8
)

// frameReader is where a txQueue's frames come from. [tap.Reader] is one, and says
// what Read promises.
type frameReader interface {
	Read(bufs [][]byte, n []int) (int, error)
}

// txQueue carries frames from the TAP to the tx ring. One goroutine owns it.
//
// Small frames are read in batches into private buffers and copied into maps: the
// copy of 1500 bytes is cheaper than a held page. When super-frames arrive, each is
// read straight into a run of free maps, [virtio header | frame], and its first
// slot begins behind the header. Either way takes any frame: a wrong guess costs a
// copy, or a few maps for a moment.
type txQueue struct {
	counters
	recording
	mem    txMemory
	state  *txState // mem's
	ring   *ring.Front[netif.TxSlot]
	tag    *busdma.Tag
	slab   *busdma.Slab
	pool   *busdma.Pool
	in     frameReader
	notify func() error
	maps   gauge
	ages   ages
	// offload is what the backend takes over of a frame, maxFrame the size of the
	// largest one that it takes.
	offload  tap.TxFeatures
	maxFrame int
	// consumed is how many responses were taken, and waits whether frames wait for more,
	// for the watchdog.
	consumed atomic.Uint32
	waits    atomic.Bool
	// emptied is how often the TAP's queue was seen empty.
	emptied atomic.Uint64
	// taken is how many frames were read, and gather for how many nanoseconds frames are
	// gathered before they are; shaping sets it.
	taken  uint64
	gather atomic.Int64
	// carried is how many bytes a second it has carried lately; shaping's.
	carried atomic.Uint64

	bufs    [][]byte // txBatch buffers of frameRoom bytes, mem's
	lens    []int
	one     [1][]byte // a run of maps as a read buffer
	segs    []busdma.Segment
	segment []byte // where one segment of a super-frame is made

	hand       txHand // as in state, which the owner writes through commit
	inPlace    bool   // read into maps
	smallInRow int    // small frames since the last super-frame, while inPlace
	extras     uint32 // extras put whose NULL response did not come yet
	tapReady   bool   // the TAP may have frames: no EAGAIN since it was readable
	wanted     int    // maps that the queue waits for, 0 if for none
	hurried    bool   // others wait for the worker: one batch at a time
	parked     bool   // it asked for an event and can do nothing until responses come
}

// newTxQueue makes a queue whose ring lies in page and whose maps are slab's pages.
// Slab must belong to tag. The queue owns tag, slab, pool and mem from then on.
func newTxQueue(mem txMemory, page []byte, tag *busdma.Tag, slab *busdma.Slab, in frameReader, feat Features, notify func() error) (*txQueue, error) {
	q := txQueueOn(mem, tag, slab, in, feat, notify)
	var err error
	if q.ring, err = ring.NewFront[netif.TxSlot](page, &q.state.ring); err != nil {
		return nil, fmt.Errorf("make tx ring: %w", err)
	}
	if q.pool, err = busdma.NewPool(tag, slab, &q.state.pool); err != nil {
		return nil, fmt.Errorf("make tx pool: %w", err)
	}
	q.publish()
	return q, nil
}

// txQueueOn makes what is around ring and pool.
func txQueueOn(mem txMemory, tag *busdma.Tag, slab *busdma.Slab, in frameReader, feat Features, notify func() error) *txQueue {
	q := &txQueue{mem: mem, state: mem.state, tag: tag, slab: slab, in: in, notify: notify}
	q.offload = tap.TxFeatures{CsumIPv4: feat.Csum, CsumIPv6: feat.CsumIPv6, GSOTCPv4: feat.GSOv4, GSOTCPv6: feat.GSOv6}
	q.maxFrame = netif.PageSize
	if feat.SG {
		q.maxFrame = netif.MaxTxSize
	}
	for i := range txBatch {
		q.bufs = append(q.bufs, mem.arena[i*frameRoom:(i+1)*frameRoom:(i+1)*frameRoom])
	}
	q.segment = mem.arena[txBatch*frameRoom:]
	q.lens = make([]int, txBatch)
	q.segs = make([]busdma.Segment, 0, txRun)
	return q
}

// service moves what can be moved: responses first, then frames, until the TAP is
// empty, the maps are used up or it has done its share. More says that it would go
// on at once.
func (q *txQueue) service() (more bool, err error) {
	looks := q.tapReady // without that, what it finds says nothing of the TAP
	q.look()
	q.rec.clock()
	if err := q.reap(); err != nil {
		return false, err
	}
	rounds := txRounds
	if q.hurried {
		rounds = 1
	}
	for range rounds {
		sent, err := q.sendPending()
		if err == nil && sent && q.tapReady {
			err = q.read()
		}
		if err != nil {
			return false, err
		}
		idle := !q.tapReady && q.hand.next == q.hand.filled
		if idle || q.wanted > 0 || q.ring.Unpublished() >= txPublish {
			if err := q.push(); err != nil {
				return false, err
			}
		}
		if q.wanted > 0 {
			return q.waitForMaps()
		}
		q.parked = false
		if idle {
			if looks {
				q.emptied.Add(1)
			}
			return false, nil
		}
	}
	return true, q.push()
}

// room tells whether n maps and slots, and one more slot for an extra, are free.
// If not, it notes what the queue waits for.
func (q *txQueue) room(n int) bool {
	if q.pool.Free() >= n && int(q.ring.Free()) > n {
		return true
	}
	q.wanted = n
	return false
}

// waitForMaps asks the backend for an event when enough responses are there for
// what is wanted, and tells whether they are there already. The worker looks again
// after parkedLook, since fewer may do and more may never come.
func (q *txQueue) waitForMaps() (ready bool, err error) {
	if !q.parked {
		q.add(cParked, 1)
	}
	q.parked = true
	outstanding := q.ring.Size() - q.ring.Free()
	if outstanding == 0 {
		return false, fmt.Errorf("tx: %d maps wanted, %d free, none in flight: %+v", q.wanted, q.pool.Free(), q.pool.Counts())
	}
	// Half of what is out, so that the backend works on the other half meanwhile,
	// and not less than what is missing.
	n := max(outstanding/2, uint32(max(0, q.wanted-q.pool.Free())), 1)
	q.wanted = 0
	return q.ring.NotifyAfter(min(n, outstanding)), nil
}

// push publishes what was put, whole frames only, and notifies the backend if it
// wants to hear of it.
func (q *txQueue) push() error {
	n := q.ring.Unpublished()
	if n == 0 {
		return nil
	}
	asked := q.ring.Push()
	crashPoint(crashTxPublish)
	q.rec.publish()
	return q.pushed(n, asked, q.notify)
}

// response returns the i-th waiting response, and the map of the request that it names: none for
// the extra behind one. Whatever takes a response has it from here, since the backend may have
// written anything.
func (q *txQueue) response(i uint32) (netif.TxResponse, *busdma.Map, error) {
	r := netif.ParseTxResponse(q.ring.Response(i))
	if r.Status == netif.StatusNull {
		return r, nil, nil
	}
	m, ok := q.pool.At(int(r.ID))
	if !ok {
		return r, nil, violation("tx response with id %d, there are %d", r.ID, q.slab.Pages())
	}
	return r, m, nil
}

// reap takes the responses that are there. They come in any order, as late as the
// backend likes, and each names its request by id.
func (q *txQueue) reap() error {
	n, err := q.ring.Responses()
	if err != nil {
		return violation("tx %w", err)
	}
	for i := range n {
		r, m, err := q.response(i)
		if err != nil {
			return err
		}
		if m == nil {
			if q.extras == 0 {
				return violation("tx response NULL without an extra")
			}
			q.extras--
			continue
		}
		if m.State() != busdma.InFlight {
			return violation("tx response with id %d, which is not in flight", r.ID)
		}
		if err := q.release(m); err != nil {
			return err
		}
		crashPoint(crashTxRelease)
		q.rec.response(r.ID, r.Status)
		switch r.Status {
		case netif.StatusOkay:
		case netif.StatusDropped:
			q.add(cBackendDropped, 1)
		default:
			q.add(cBackendError, 1)
		}
	}
	q.ring.Consume(n)
	crashPoint(crashTxConsume)
	q.ages.standing()
	return nil
}

// release puts an answered map back into the pool.
func (q *txQueue) release(m *busdma.Map) error {
	err := q.tag.Unload(m)
	if err == nil {
		err = q.pool.Put(m)
	}
	if err != nil {
		return fmt.Errorf("tx map: %w", err)
	}
	q.ages.release(m.Index(), q.pool)
	return nil
}

// inject sends frames that were made here, each an Ethernet frame without a virtio
// header, as many as there is room for, and tells how many.
func (q *txQueue) inject(frames [][]byte) (n int, err error) {
	q.look()
	q.rec.clock()
	if err := q.reap(); err != nil {
		return 0, err
	}
	for n < len(frames) && q.room(1) {
		if err := q.copyOut(frames[n], txPlan{}); err != nil {
			return n, err
		}
		q.commit(q.hand)
		q.add(cAnnounced, 1)
		n++
	}
	q.wanted = 0
	return n, q.push()
}

// publish makes the queue's figures visible.
func (q *txQueue) publish() {
	q.rec.publish()
	q.counters.publish()
	q.maps.publish(mapCounts(q.pool))
	q.ages.publish()
	q.consumed.Store(q.ring.Consumed())
	q.waits.Store(q.parked)
}

// close ends the queue. The connection must have ended before: what is in flight
// is in nobody's hands but the kernel's, which keeps a page that the backend still
// has mapped. Pages are freed, maps and tag destroyed.
func (q *txQueue) close() error {
	return errors.Join(closeQueue(q.pool, q.slab, q.tag), q.mem.close())
}
