package ring

import "sync/atomic"

// Back is the backend's end of a ring. It belongs to one goroutine.
type Back[S Slot] struct {
	shared[S]
	rspProd   uint32 // responses written, published or not
	published uint32 // responses published
	reqCons   uint32 // requests taken
	again     bool   // see BeginAgain
}

// AttachBack returns the backend's end of the ring in page. It begins at the shared
// rsp_prod, as Linux netback does (xenvif_map_frontend_data_rings), so that a new
// backend can go on with a ring in use. More requests than slots are [ErrOverflow].
func AttachBack[S Slot](page []byte) (*Back[S], error) {
	r, err := view[S](page)
	if err != nil {
		return nil, err
	}
	at := atomic.LoadUint32(r.rspProd())
	b := &Back[S]{shared: r, rspProd: at, published: at, reqCons: at}
	if _, err := b.Requests(); err != nil {
		return nil, err
	}
	return b, nil
}

// BeginAgain has the end begin at index 0, whatever is on the ring, as a backend does that
// expects a new one (BACK_RING_INIT of xen/include/public/io/ring.h). Requests are then those
// that fit the ring, and nothing is impossible.
func (b *Back[S]) BeginAgain() {
	b.rspProd, b.published, b.reqCons, b.again = 0, 0, 0, true
}

// Size is the number of slots.
func (b *Back[S]) Size() uint32 { return b.size }

// Requests returns how many requests wait, [ErrOverflow] if that is impossible.
func (b *Back[S]) Requests() (uint32, error) {
	prod := atomic.LoadUint32(b.shared.reqProd())
	n := prod - b.reqCons
	if b.again {
		return min(n, b.size-(b.reqCons-b.rspProd)), nil
	}
	if n > b.size || prod-b.rspProd > b.size {
		return 0, ErrOverflow
	}
	return n, nil
}

// Request returns a copy of the i-th waiting request.
func (b *Back[S]) Request(i uint32) S { return *b.slot(b.reqCons + i) }

// Consume takes the first n waiting requests. Their slots are free for responses.
func (b *Back[S]) Consume(n uint32) { b.reqCons += n }

// Consumed is the index of the next request.
func (b *Back[S]) Consumed() uint32 { return b.reqCons }

// Produced is the index that the next Put writes.
func (b *Back[S]) Produced() uint32 { return b.rspProd }

// Put writes the next response slot; the frontend sees it after Push. There must be
// a consumed request that has no response yet. Bytes of the slot that the response
// does not use should be zero.
func (b *Back[S]) Put(s *S) {
	*b.slot(b.rspProd) = *s
	b.rspProd++
}

// Push publishes all responses that were put and tells whether the frontend asked
// to be notified of them.
func (b *Back[S]) Push() (notify bool) {
	old, to := b.published, b.rspProd
	b.published = to
	store(b.shared.rspProd(), to)
	return passed(atomic.LoadUint32(b.rspEvent()), old, to)
}

// NotifyAfter asks the frontend for an event when n more requests than were taken
// are there, and tells whether they are there already
// (RING_FINAL_CHECK_FOR_REQUESTS with n = 1).
func (b *Back[S]) NotifyAfter(n uint32) (ready bool) {
	store(b.reqEvent(), b.reqCons+n)
	waiting := atomic.LoadUint32(b.shared.reqProd()) - b.reqCons
	return waiting >= n && waiting != 0
}

// Header reads the shared words.
func (b *Back[S]) Header() Header { return b.header() }
