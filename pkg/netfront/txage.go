package netfront

import (
	"math"
	"sync/atomic"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
)

// seconds is a clock that a Device's goroutine advances, so that a queue knows the time,
// to a second, without a system call.
type seconds struct{ atomic.Uint32 }

// ages knows since when each map of a tx queue has been in flight, and with how many
// bytes. The queue's owner alone uses it, but for oldestFor and takeLow. The oldest age
// is kept at hand for others without a search: one is made when the last map of the oldest
// second is released, which is once in a second at most.
type ages struct {
	clock  *seconds // nil: it is always the first second
	flying int      // maps in flight
	out    int      // bytes in flight

	since [busdma.MaxMaps]uint32 // when it was put; of maps in flight
	index [busdma.MaxMaps]uint32 // of its request on the ring
	bytes [busdma.MaxMaps]uint16 // of the frame that lie in it

	oldest uint32 // second of the maps that are longest in flight
	count  int    // how many these are

	published atomic.Uint32 // oldest and 1; 0: nothing is in flight
	inFlight  atomic.Uint32 // bytes
	low       atomic.Uint32 // least bytes in flight since the last takeLow
}

// put notes that map id is in flight, as the request with the given index, with so many
// bytes.
func (a *ages) put(id int, index uint32, bytes uint16) {
	now := uint32(0)
	if a.clock != nil {
		now = a.clock.Load()
	}
	a.since[id], a.index[id], a.bytes[id] = now, index, bytes
	a.out += int(bytes)
	a.flying++
	switch {
	case a.flying == 1:
		a.oldest, a.count = now, 1
	case now == a.oldest:
		a.count++
	}
}

// release notes that map id is not in flight any more, which its pool says, too.
func (a *ages) release(id int, pool *busdma.Pool) {
	a.flying--
	a.out -= int(a.bytes[id])
	if a.since[id] != a.oldest {
		return
	}
	if a.count--; a.count == 0 && a.flying > 0 {
		a.search(pool)
	}
}

// search finds the oldest second among the maps in flight.
func (a *ages) search(pool *busdma.Pool) {
	first := true
	for i := range a.since {
		m, ok := pool.At(i)
		if !ok {
			return
		}
		switch s := a.since[i]; {
		case m.State() != busdma.InFlight:
		case first, int32(s-a.oldest) < 0:
			a.oldest, a.count, first = s, 1, false
		case s == a.oldest:
			a.count++
		}
	}
}

// standing notes how many bytes are in flight now that all responses were taken.
func (a *ages) standing() {
	if n := uint32(a.out); n < a.low.Load() {
		a.low.Store(n)
	}
}

// takeLow is the least number of bytes that were in flight once responses had been taken,
// since it was called last: what the backend does not get done. It is 0 if the queue did
// not work meanwhile. Any one goroutine may call it.
func (a *ages) takeLow() uint32 {
	n := a.low.Swap(math.MaxUint32)
	if n == math.MaxUint32 {
		return 0
	}
	return n
}

// publish makes the oldest age and the bytes in flight visible.
func (a *ages) publish() {
	if n := uint32(a.out); a.inFlight.Load() != n {
		a.inFlight.Store(n)
	}
	v := uint32(0)
	if a.flying > 0 {
		v = a.oldest + 1
	}
	if a.published.Load() != v {
		a.published.Store(v)
	}
}

// oldestFor is for how many seconds the oldest map has been in flight, as of the last
// batch; 0 if there is none. Any goroutine may call it.
func (a *ages) oldestFor() uint32 {
	v := a.published.Load()
	if v == 0 || a.clock == nil {
		return 0
	}
	// The clock may have been read before the map was put.
	return uint32(max(0, int32(a.clock.Load()+1-v)))
}

// age is for how many seconds map id has been in flight.
func (a *ages) age(id int) uint32 {
	if a.clock == nil {
		return 0
	}
	return a.clock.Load() - a.since[id]
}
