package netfront

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// captureQueue is the consumer of one recorder.
type captureQueue struct {
	number     int
	dir        Direction
	connection *CaptureConnection
	ringSize   uint32
	rec        *recorder
	ended      bool // its worker records nothing any more; the capture's lock guards it

	frames, matched uint64
	slots           []CapturedSlot // of the frame to come
	free            []*heldFrame
	// waiting are the tx frames that wait for a response, under the ids of those: a frame
	// may be there several times, and there are no more than maps.
	waiting [busdma.MaxMaps]*heldFrame
	held    int // frames in waiting
}

// heldFrame is a captured frame with memory of its own.
type heldFrame struct {
	CapturedFrame
	missing int       // responses
	until   time.Time // when it goes without them
}

// newFrame returns a frame to fill.
func (q *captureQueue) newFrame() *heldFrame {
	if n := len(q.free); n > 0 {
		f := q.free[n-1]
		q.free = q.free[:n-1]
		return f
	}
	return new(heldFrame)
}

// captureReader is Capture's goroutine.
type captureReader struct {
	capture    *capture
	sink       CaptureSink
	connection *CaptureConnection // that the sink knows
	figures    []CaptureFigures   // of the queues that are read to their end
}

// read hands all that was recorded to the sink, and tx frames that have waited long
// enough.
func (r *captureReader) read(now time.Time) error {
	c := r.capture
	c.mu.Lock()
	queues := c.queues
	ended := make([]bool, len(queues))
	for i, q := range queues {
		ended[i] = q.ended
	}
	c.mu.Unlock()
	for i, q := range queues {
		if q.connection != r.connection {
			r.connection = q.connection
			if err := r.sink.Connection(*q.connection); err != nil {
				return err
			}
		}
		if err := r.drain(q, now); err != nil {
			return err
		}
		if err := r.expire(q, now, ended[i]); err != nil {
			return err
		}
	}
	r.retire(queues, ended)
	return r.sink.Idle()
}

// retire forgets the queues that have ended.
func (r *captureReader) retire(queues []*captureQueue, ended []bool) {
	c := r.capture
	c.mu.Lock()
	defer c.mu.Unlock()
	left := make([]*captureQueue, 0, len(c.queues))
	for i, q := range c.queues {
		if i < len(queues) && ended[i] {
			r.figures = addFigures(r.figures, q)
		} else {
			left = append(left, q)
		}
	}
	c.queues = left
}

// result is what was captured so far.
func (r *captureReader) result() CaptureResult {
	c := r.capture
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range c.queues {
		r.figures = addFigures(r.figures, q)
	}
	return CaptureResult{Figures: r.figures, Ended: c.why}
}

// addFigures adds what q has seen to the figures of its queue and direction.
func addFigures(all []CaptureFigures, q *captureQueue) []CaptureFigures {
	f := CaptureFigures{Queue: q.number, Direction: q.dir, Dropped: q.rec.dropped.Load(), Matched: q.matched}
	f.Frames = q.frames + f.Dropped
	for i := range all {
		if all[i].Queue == f.Queue && all[i].Direction == f.Direction {
			all[i].Frames += f.Frames
			all[i].Dropped += f.Dropped
			all[i].Matched += f.Matched
			return all
		}
	}
	return append(all, f)
}

// drain reads what q's worker has published.
func (r *captureReader) drain(q *captureQueue, now time.Time) error {
	rec := q.rec
	head := rec.head.Load()
	for at := rec.tail.Load(); at != head; at++ {
		e := *rec.at(at)
		var f *heldFrame
		switch e.kind {
		case entrySlot:
			q.slots = append(q.slots, CapturedSlot{Index: e.index, ID: e.id, Flags: e.flags, Offset: e.offset, Size: int(e.size)})
		case entryExtra:
			q.slots = append(q.slots, CapturedSlot{Index: e.index, IsExtra: true, Extra: extraOf(e.value)})
		case entryFrame:
			f = q.frame(&e)
		case entryResponse:
			f = q.response(&e)
		}
		rec.tail.Store(at + 1) // what is behind it was copied
		if e.kind == entryFrame {
			f = r.sift(q, f, now)
		}
		if f == nil {
			continue
		}
		if err := r.deliver(q, f); err != nil {
			return err
		}
	}
	return nil
}

// extraOf decodes an extra, whatever it says.
func extraOf(v uint64) netif.Extra {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	e, _ := netif.ParseExtra(b) // it is returned with the error, too
	return e
}

// frame takes the frame that e ends out of the rings.
func (q *captureQueue) frame(e *captureEntry) *heldFrame {
	q.frames++
	f := q.newFrame()
	f.CapturedFrame = CapturedFrame{
		Time: time.Unix(0, int64(e.value)), Queue: q.number, Direction: q.dir, Connection: q.connection.Number, RingSize: q.ringSize,
		Slots: append(f.Slots[:0], q.slots...), Length: int(e.size), Data: f.Data[:0], Missed: int(e.id),
	}
	f.missing = 0
	if e.cause != 0 {
		f.Lost = counterNames[e.cause]
	}
	q.slots = q.slots[:0]
	rec := q.rec
	begin, n := rec.dataTail.Load(), uint64(e.index)
	at := begin & uint64(len(rec.data)-1)
	piece := min(n, uint64(len(rec.data))-at)
	f.Data = append(f.Data, rec.data[at:at+piece]...)
	f.Data = append(f.Data, rec.data[:n-piece]...)
	rec.dataTail.Store(begin + n)
	return f
}

// sift returns a frame that goes to the sink now, or nil.
func (r *captureReader) sift(q *captureQueue, f *heldFrame, now time.Time) *heldFrame {
	config := &r.capture.config
	if config.Match != nil && !config.Match(f.Data, f.Length) {
		q.free = append(q.free, f)
		return nil
	}
	q.matched++
	if config.SnapLen != 0 {
		f.Data = f.Data[:min(len(f.Data), config.SnapLen)]
	}
	if q.dir == Rx || f.Lost != "" {
		return f
	}
	for i := range f.Slots {
		if s := &f.Slots[i]; !s.IsExtra {
			q.waiting[s.ID] = f
			f.missing++
		}
	}
	f.until = now.Add(responseTimeout)
	q.held++
	return nil
}

// response gives a response to the frame that waits for it, which is returned if it was
// the last one.
func (q *captureQueue) response(e *captureEntry) *heldFrame {
	f := q.waiting[e.id]
	if f == nil {
		return nil // it did not match, or is gone without it
	}
	q.waiting[e.id] = nil
	for i := range f.Slots {
		if s := &f.Slots[i]; !s.IsExtra && s.ID == e.id {
			s.Status, s.Answered = int16(e.size), true
		}
	}
	if f.missing--; f.missing > 0 {
		return nil
	}
	q.held--
	f.Answered = time.Unix(0, int64(e.value))
	return f
}

// expire hands over the tx frames that have waited long enough, or all, in the order in
// which they were put.
func (r *captureReader) expire(q *captureQueue, now time.Time, all bool) error {
	if q.held == 0 {
		return nil
	}
	var due []*heldFrame
	for id, f := range q.waiting {
		if f == nil || !all && now.Before(f.until) {
			continue
		}
		q.waiting[id] = nil
		if f.missing--; f.missing == 0 {
			due = append(due, f)
		}
	}
	slices.SortFunc(due, func(a, b *heldFrame) int { return int(int32(a.Slots[0].Index - b.Slots[0].Index)) })
	q.held -= len(due)
	for _, f := range due {
		if err := r.deliver(q, f); err != nil {
			return err
		}
	}
	return nil
}

func (r *captureReader) deliver(q *captureQueue, f *heldFrame) error {
	q.free = append(q.free, f)
	return r.sink.Frame(&f.CapturedFrame)
}
