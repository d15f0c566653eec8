package netfront

import (
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// read takes frames from the TAP, in the mode that suits what came last, and sends
// them. Those for which the maps do not suffice stay in the private buffers.
func (q *txQueue) read() error {
	if q.inPlace {
		return q.readInPlace()
	}
	return q.readBatch()
}

// readBatch reads small frames into the private buffers.
func (q *txQueue) readBatch() error {
	if !q.room(1) {
		return nil
	}
	limit := min(txBatch, q.pool.Free(), int(q.ring.Free())-1)
	n, err := q.in.Read(q.bufs[:limit], q.lens)
	if err != nil {
		return fmt.Errorf("read from the TAP: %w", err)
	}
	crashPoint(crashTxRead)
	q.rec.clock()
	q.tapReady = n == limit
	q.taken += uint64(n)
	for i, l := range q.lens[:n] {
		q.state.lens[i] = uint32(l)
		// Without feature-sg it is too big, and the next one must not begin behind a
		// virtio header: it would need a second slot.
		if l > superFrame+tap.VirtioHeaderSize && q.maxFrame > superFrame {
			q.inPlace, q.smallInRow = true, 0
		}
	}
	q.commit(txHand{filled: uint8(n)})
	crashPoint(crashTxHand)
	_, err = q.sendPending()
	return err
}

// sendPending sends the frames that wait in private buffers, in order. It returns
// false when it had to stop for want of maps.
func (q *txQueue) sendPending() (sent bool, err error) {
	for q.hand.next < q.hand.filled {
		done, err := q.sendCopy(q.bufs[q.hand.next][:q.state.lens[q.hand.next]])
		if err != nil || !done {
			return false, err
		}
		q.commit(txHand{next: q.hand.next + 1, filled: q.hand.filled})
	}
	return true, nil
}

// readInPlace reads one frame into a run of free maps.
func (q *txQueue) readInPlace() error {
	if !q.room(txRun) {
		return nil
	}
	run, ok := q.pool.TakeRun(txRun)
	if !ok {
		return q.readBatch() // enough maps, but scattered
	}
	first := run[0].Index() * netif.PageSize
	q.one[0] = q.slab.Bytes()[first : first+frameRoom]
	n, err := q.in.Read(q.one[:], q.lens[:1])
	if err != nil || n == 0 {
		q.tapReady = false
		if perr := q.pool.PutRun(run); perr != nil {
			return fmt.Errorf("tx run: %w", perr)
		}
		if err != nil {
			return fmt.Errorf("read from the TAP: %w", err)
		}
		return nil
	}
	q.rec.clock()
	q.taken++
	return q.sendInPlace(run, q.one[0][:q.lens[0]])
}

// guess leaves in-place mode when small frames come.
func (q *txQueue) guess(frameLen int) {
	if frameLen > superFrame {
		q.smallInRow = 0
	} else if q.smallInRow++; q.smallInRow >= 2 {
		q.inPlace = false
	}
}
