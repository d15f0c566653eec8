package netfront

import (
	"errors"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// txPlan is how a frame goes on the ring.
type txPlan struct {
	flags   uint16 // of the first slot: checksum state
	gsoType netif.GSOType
	gsoSize uint16
}

// prepared is a frame that is ready for the ring, or has to be cut first.
type prepared struct {
	frame   []byte
	plan    txPlan
	cut     bool // into segments of gsoSize bytes of payload
	headers tap.Headers
	gsoSize int
}

// prepare looks at buf, [virtio header | frame], decides how it goes on the ring and
// finishes its checksum if the backend will not. It may be called again for the same
// buf: what was done is noted in the header. Ok is false if the frame is to be
// dropped, which is counted.
func (q *txQueue) prepare(buf []byte) (f prepared, ok bool) {
	v, err := tap.ParseVirtioHeader(buf)
	if err != nil || len(buf) < tap.VirtioHeaderSize+netif.MinFirst {
		q.lose(buf[min(tap.VirtioHeaderSize, len(buf)):], cDropMalformed)
		return f, false
	}
	f.frame = buf[tap.VirtioHeaderSize:]
	if v.Pending() {
		// A frame that cannot be parsed has its checksum finished where the kernel
		// says it is.
		f.headers, _ = tap.ParseHeaders(f.frame, len(f.frame))
	}
	p, err := tap.CheckTx(v, f.headers, len(f.frame), q.offload)
	if err != nil {
		q.lose(f.frame, cDropMalformed)
		return f, false
	}
	if p.Action == tap.TxSegment {
		f.cut, f.gsoSize = true, int(p.GSOSize)
		return f, true
	}
	if len(f.frame) > q.maxFrame {
		q.lose(f.frame, cDropTooBig)
		return f, false
	}
	if p.Action == tap.TxFinish {
		if err := tap.FinishChecksum(f.frame[:p.End], p.Start, p.Offset); err != nil {
			q.lose(f.frame, cDropMalformed)
			return f, false
		}
		q.add(cCsumSoftware, 1)
		done := tap.VirtioHeader{}
		if p.DataValidated {
			done.Flags = tap.VirtioDataValid
		}
		done.Put(buf)
	}
	f.plan = ringPlan(p)
	return f, true
}

// ringPlan says in the ring's terms what p says in the TAP's.
func ringPlan(p tap.TxPlan) (t txPlan) {
	if p.CsumBlank {
		t.flags |= netif.TxCsumBlank
	}
	if p.DataValidated {
		t.flags |= netif.TxDataValidated
	}
	switch p.GSOType {
	case tap.GSOTCPv4:
		t.gsoType, t.gsoSize = netif.GSOTCPv4, p.GSOSize
	case tap.GSOTCPv6:
		t.gsoType, t.gsoSize = netif.GSOTCPv6, p.GSOSize
	}
	return t
}

// sendCopy sends buf, [virtio header | frame] in private memory, by copying it into
// maps. Done is false when there are not maps enough; it is called again then.
func (q *txQueue) sendCopy(buf []byte) (done bool, err error) {
	f, ok := q.prepare(buf)
	switch {
	case !ok:
		return true, nil
	case f.cut:
		return q.sendSegments(f)
	case !q.room(pages(len(f.frame))):
		return false, nil
	}
	return true, q.copyOut(f.frame, f.plan)
}

// errNoRoom stops a segmentation for want of maps.
var errNoRoom = errors.New("no maps left")

// sendSegments cuts a super-frame that the ring cannot take as it is: one with a
// VLAN tag, or one that was in the TAP when a backend without the feature connected.
// When the maps do not suffice it is called again and passes over the segments that
// are sent.
func (q *txQueue) sendSegments(f prepared) (done bool, err error) {
	n := uint16(0)
	err = tap.Segment(f.frame, f.headers, f.gsoSize, q.segment, func(seg []byte) error {
		if n++; n <= q.hand.segments {
			return nil
		}
		if len(seg) > q.maxFrame {
			q.lose(seg, cDropTooBig)
		} else if !q.room(pages(len(seg))) {
			return errNoRoom
		} else if err := q.copyOut(seg, txPlan{flags: netif.TxDataValidated}); err != nil {
			return err
		}
		hand := q.hand
		hand.segments = n
		q.commit(hand)
		return nil
	})
	switch {
	case errors.Is(err, errNoRoom):
		return false, nil
	case errors.Is(err, tap.ErrNotTCP), errors.Is(err, tap.ErrSegmentBuffer):
		q.lose(f.frame, cDropMalformed)
		return true, nil
	case err != nil:
		return false, err
	}
	q.add(cSegmented, 1)
	return true, nil
}

// sendInPlace sends buf, [virtio header | frame] at the beginning of run. The maps
// that it does not need go back. The backend's grants of them are read-only, so the
// frame is parsed, and its checksum finished, where it lies.
func (q *txQueue) sendInPlace(run []busdma.Map, buf []byte) error {
	f, ok := q.prepare(buf)
	if !ok {
		return q.pool.PutRun(run)
	}
	q.guess(len(f.frame))
	if f.cut {
		q.state.lens[0] = uint32(copy(q.bufs[0], buf))
		q.commit(txHand{filled: 1})
		if err := q.pool.PutRun(run); err != nil {
			return fmt.Errorf("tx run: %w", err)
		}
		_, err := q.sendPending()
		return err
	}
	used := pages(len(buf))
	if err := q.pool.PutRun(run[used:]); err != nil {
		return fmt.Errorf("tx run: %w", err)
	}
	var err error
	if q.segs, err = q.tag.LoadRun(run[:used], f.frame, q.segs[:0]); err != nil {
		return fmt.Errorf("load tx run: %w", err)
	}
	for i, s := range q.segs {
		if err := q.putSlot(&run[i], s, i, len(q.segs), len(f.frame), f.plan); err != nil {
			return err
		}
	}
	q.commit(q.hand)
	q.count(f.frame, len(q.segs), f.plan)
	return nil
}

// copyOut puts frame on the ring in maps of its own. There is room for it.
func (q *txQueue) copyOut(frame []byte, plan txPlan) error {
	n := pages(len(frame))
	for i := range n {
		m, ok := q.pool.Take()
		if !ok {
			return errors.New("tx pool is empty after there was room")
		}
		s, err := q.tag.Load(m, frame[i*netif.PageSize:min((i+1)*netif.PageSize, len(frame))])
		if err != nil {
			return fmt.Errorf("load tx map: %w", err)
		}
		if err := q.tag.Sync(m, busdma.PreWrite); err != nil {
			return fmt.Errorf("sync tx map: %w", err)
		}
		if err := q.putSlot(m, s, i, n, len(frame), plan); err != nil {
			return err
		}
	}
	q.add(cBounced, 1)
	q.count(frame, n, plan)
	return nil
}

// putSlot writes the i-th of n data slots of a frame, and after the first one its
// extra.
func (q *txQueue) putSlot(m *busdma.Map, s busdma.Segment, i, n, frameLen int, plan txPlan) error {
	r := netif.TxRequest{Ref: uint32(s.Ref), Offset: s.Offset, ID: uint16(m.Index()), Size: s.Len}
	if i < n-1 {
		r.Flags |= netif.TxMoreData
	}
	if i == 0 {
		r.Flags |= plan.flags
		r.Size = uint16(frameLen)
		if plan.gsoType != netif.GSONone {
			r.Flags |= netif.TxExtraInfo
		}
	}
	slot := r.Slot()
	q.rec.request(q.ring.Produced(), r)
	q.put(&slot, r.ID)
	// After the put: a map in flight is always one that a put slot names.
	if err := q.tag.Publish(m); err != nil {
		return fmt.Errorf("publish tx map: %w", err)
	}
	q.ages.put(m.Index(), q.ring.Produced()-1, s.Len)
	crashPoint(crashTxPutMap)
	if i == 0 && plan.gsoType != netif.GSONone {
		extra := netif.NewGSO(plan.gsoSize, plan.gsoType).TxSlot()
		q.rec.extra(q.ring.Produced(), [8]byte(extra[:8]))
		q.put(&extra, noMap)
		q.extras++
	}
	return nil
}

// count notes a frame of n data slots, which were put.
func (q *txQueue) count(frame []byte, n int, plan txPlan) {
	q.record(frame, 0)
	q.add(cPackets, 1)
	q.add(cBytes, uint64(len(frame)))
	if plan.gsoType != netif.GSONone {
		q.add(cSuperFrames, 1)
		n++
	}
	q.add(cSlots, uint64(n))
}

// pages is how many pages n bytes from the beginning of one lie on.
func pages(n int) int { return (n + netif.PageSize - 1) / netif.PageSize }
