package ring

import (
	"fmt"
	"sync/atomic"
)

// FrontState is a frontend's private half of a ring. It has no pointers, so that it
// can be kept where another process finds it.
type FrontState struct {
	ReqProd   uint32 // requests written, published or not (req_prod_pvt)
	Published uint32 // requests published: what this side last stored in req_prod
	RspCons   uint32 // responses taken
}

// Front is the frontend's end of a ring. It belongs to one goroutine.
type Front[S Slot] struct {
	shared[S]
	state *FrontState
}

// NewFront makes page an empty ring (SHARED_RING_INIT, FRONT_RING_INIT) and returns
// its frontend end. The page must not be known to a backend yet. State becomes the
// ring's private half and belongs to it from then on; nil means one of its own.
func NewFront[S Slot](page []byte, state *FrontState) (*Front[S], error) {
	r, err := view[S](page)
	if err != nil {
		return nil, err
	}
	if state == nil {
		state = new(FrontState)
	}
	*state = FrontState{}
	clear(page)
	atomic.StoreUint32(r.reqEvent(), 1)
	atomic.StoreUint32(r.rspEvent(), 1)
	return &Front[S]{shared: r, state: state}, nil
}

// AdoptFront returns the frontend end of a ring that another process has made and
// left in the middle of any step, with a backend at work on it. Only what a frontend
// stores itself is checked: state against itself, and against the shared req_prod,
// which the backend can write, too. It fails with [ErrState].
func AdoptFront[S Slot](page []byte, state *FrontState) (*Front[S], error) {
	r, err := view[S](page)
	if err != nil {
		return nil, err
	}
	f := &Front[S]{shared: r, state: state}
	put, published := state.ReqProd-state.RspCons, state.Published-state.RspCons
	// Published is stored before req_prod.
	late := state.Published - atomic.LoadUint32(r.reqProd())
	if put > f.size || published > put || late > published {
		return nil, fmt.Errorf("%w: %+v, req_prod %d", ErrState, *state, atomic.LoadUint32(r.reqProd()))
	}
	return f, nil
}

// Rewind takes back the requests that were put from index to on. It fails with
// [ErrState] when one of them was pushed or none of them was put.
func (f *Front[S]) Rewind(to uint32) error {
	if int32(to-f.state.Published) < 0 || int32(f.state.ReqProd-to) < 0 {
		return fmt.Errorf("%w: rewind to %d: %+v", ErrState, to, *f.state)
	}
	f.state.ReqProd = to
	return nil
}

// Size is the number of slots.
func (f *Front[S]) Size() uint32 { return f.size }

// Free is how many requests can be put before a response must be taken.
func (f *Front[S]) Free() uint32 { return f.size - (f.state.ReqProd - f.state.RspCons) }

// Produced is the index that the next Put writes.
func (f *Front[S]) Produced() uint32 { return f.state.ReqProd }

// Consumed is the index of the next response.
func (f *Front[S]) Consumed() uint32 { return f.state.RspCons }

// Put writes the next request slot. The backend sees it after Push. The caller has
// checked Free.
func (f *Front[S]) Put(s *S) {
	*f.slot(f.state.ReqProd) = *s
	f.state.ReqProd++
}

// Unpublished is how many requests were put and not pushed.
func (f *Front[S]) Unpublished() uint32 { return f.state.ReqProd - f.state.Published }

// Push publishes all requests that were put, with one store, and tells whether the
// backend asked to be notified of them.
func (f *Front[S]) Push() (notify bool) {
	old, to := f.state.Published, f.state.ReqProd
	f.state.Published = to
	store(f.reqProd(), to)
	return passed(atomic.LoadUint32(f.reqEvent()), old, to)
}

// Responses returns how many responses wait. A backend that claims more than there
// are published requests without a response gets [ErrOverflow], and [ErrWentBack] if it
// claims fewer than were taken.
func (f *Front[S]) Responses() (uint32, error) {
	n := atomic.LoadUint32(f.rspProd()) - f.state.RspCons
	if n > f.state.Published-f.state.RspCons {
		if int32(n) < 0 {
			return 0, ErrWentBack
		}
		return 0, ErrOverflow
	}
	return n, nil
}

// Answered tells whether the backend has just now answered the requests before index to, and
// none behind it. That is its own claim, and only good for a hint.
func (f *Front[S]) Answered(to uint32) bool { return atomic.LoadUint32(f.rspProd()) == to }

// Response returns a copy of the i-th waiting response.
func (f *Front[S]) Response(i uint32) S { return *f.slot(f.state.RspCons + i) }

// Consume gives the slots of the first n waiting responses back.
func (f *Front[S]) Consume(n uint32) { f.state.RspCons += n }

// NotifyAfter asks the backend for an event when n more responses than were taken
// are there, and tells whether they are there already: then no event may come and
// the caller looks again (RING_FINAL_CHECK_FOR_RESPONSES with n = 1).
func (f *Front[S]) NotifyAfter(n uint32) (ready bool) {
	store(f.rspEvent(), f.state.RspCons+n)
	waiting := atomic.LoadUint32(f.rspProd()) - f.state.RspCons
	return waiting >= n && waiting != 0
}

// Header reads the shared words.
func (f *Front[S]) Header() Header { return f.header() }
