package netfront

import "sync/atomic"

// recording is a queue's end of a capture.
type recording struct {
	capture atomic.Pointer[recorder] // set by the Device while the queue is captured
	rec     *recorder                // what the owner goes by until it looks again
}

// look finds out whether the queue is captured.
func (r *recording) look() { r.rec = r.capture.Load() }

// record records a tx frame whose slots were put.
func (q *txQueue) record(frame []byte, lost counter) {
	if q.rec != nil {
		q.rec.private(frame, lost)
	}
}

// lose counts a frame that does not get to the ring.
func (q *txQueue) lose(frame []byte, cause counter) {
	q.add(cause, 1)
	q.record(frame, cause)
}

// record records a gathered frame, which is the batch's last one if it is not dropped.
func (q *rxQueue) record(f rxFrame, drop counter) {
	if q.rec != nil {
		q.recordFrame(f, drop)
	}
}

func (q *rxQueue) recordFrame(f rxFrame, drop counter) {
	n := 0
	if drop == 0 {
		// What the kernel parses is the private copy. The backend can change the rest
		// until the write, which may see other bytes than are recorded.
		last := len(q.frames) - 1
		n = int(q.frames[last][0].Len) - headFrame
		q.rec.copy(q.head(last)[headFrame : headFrame+n])
	}
	for _, p := range q.parts {
		skip := min(n, p.length)
		n -= skip
		q.rec.copy(p.m.Page()[p.offset+skip : p.offset+p.length])
	}
	entry := q.rec.frame(f.length, drop)
	if drop == 0 {
		q.rec.batch[len(q.frames)-1] = entry
	}
}
