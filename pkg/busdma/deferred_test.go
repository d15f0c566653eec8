package busdma_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// release unloads and puts back.
func (q *queue) release(t testing.TB, m *busdma.Map) {
	t.Helper()
	ok(t, q.tag.Unload(m))
	ok(t, q.pool.Put(m))
}

func TestLoadWithAMapAtHandIsDoneAtOnce(t *testing.T) {
	g := heapgrants.New(t)
	q := newQueue(t, g, 2, busdma.TagConfig{ReadOnly: true})
	frame := pattern(300, 8)
	var loaded *busdma.Map
	ok(t, q.pool.LoadFunc(frame, func(m *busdma.Map, segs []busdma.Segment, err error) {
		ok(t, err)
		if len(segs) != 1 || segs[0] != (busdma.Segment{Ref: m.Ref(), Len: 300}) {
			t.Errorf("segments %+v", segs)
		}
		ok(t, q.tag.Sync(m, busdma.PreWrite))
		ok(t, q.tag.Publish(m))
		loaded = m
	}))
	if loaded == nil || loaded.Index() != 0 || !bytes.Equal(loaded.Page()[:300], frame) {
		t.Fatal("not loaded into the lowest map")
	}
	q.release(t, loaded)
	q.check(t)
}

func TestWaitingLoadsKeepTheirOrder(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 3, busdma.TagConfig{})
	run := q.takeRun(t, 3)
	var done []byte
	var maps []*busdma.Map
	load := func(b byte) {
		fails(t, q.pool.LoadFunc([]byte{b}, func(m *busdma.Map, segs []busdma.Segment, err error) {
			ok(t, err)
			ok(t, q.tag.Sync(m, busdma.PreWrite))
			done, maps = append(done, m.Page()[0]), append(maps, m)
		}), busdma.ErrInProgress)
	}
	for b := range byte(5) {
		load(b)
	}
	if len(done) != 0 {
		t.Fatal("completed without a map")
	}
	ok(t, q.pool.Put(&run[1]))
	ok(t, q.pool.PutRun(run[2:]))
	if !bytes.Equal(done, []byte{0, 1}) || q.pool.Free() != 0 {
		t.Fatalf("completed %v", done)
	}
	load(5)
	q.release(t, maps[0])
	ok(t, q.pool.Put(&run[0]))
	q.release(t, maps[1])
	q.release(t, maps[2])
	if !bytes.Equal(done, []byte{0, 1, 2, 3, 4, 5}) {
		t.Errorf("completed %v", done)
	}
	q.check(t)
}

func TestLoadsKeepTheirOrderOverALongWait(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 2, busdma.TagConfig{})
	q.take(t)
	first := q.take(t)
	var held *busdma.Map
	var bufs [256][1]byte
	due := byte(0)
	done := func(m *busdma.Map, segs []busdma.Segment, err error) {
		ok(t, err)
		ok(t, q.tag.Sync(m, busdma.PreWrite))
		if m.Page()[0] != due {
			t.Fatalf("load %d instead of %d", m.Page()[0], due)
		}
		due++
		held = m
	}
	next := byte(0)
	load := func() {
		bufs[next][0] = next
		fails(t, q.pool.LoadFunc(bufs[next][:], done), busdma.ErrInProgress)
		next++
	}
	load()
	load()
	ok(t, q.pool.Put(first))
	// The list is 1 or 2 long and never empty.
	if n := testing.AllocsPerRun(5000, func() {
		load()
		q.release(t, held)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	q.release(t, held)
	if due != next {
		t.Errorf("load %d was not completed", due)
	}
	q.check(t)
}

func TestImpossibleLoadIsRefusedAtOnce(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 1, busdma.TagConfig{MaxSegmentSize: 2000})
	m := q.take(t)
	for _, c := range []struct {
		buf  []byte
		want error
	}{
		{nil, busdma.ErrEmpty},
		{make([]byte, 2001), busdma.ErrTooLarge},
		{m.Page()[:10], busdma.ErrBoundary},
	} {
		called := 0
		fails(t, q.pool.LoadFunc(c.buf, func(m *busdma.Map, segs []busdma.Segment, err error) {
			called++
			fails(t, err, c.want)
			if m != nil || segs != nil {
				t.Error("a map with an error")
			}
		}), c.want)
		if called != 1 {
			t.Errorf("callback called %d times", called)
		}
	}
	if q.pool.LoadFunc(make([]byte, 1), nil) == nil {
		t.Error("load without a callback")
	}
	ok(t, q.pool.Put(m))
	if q.pool.Free() != 1 {
		t.Error("something waits")
	}
}

func TestDestroyCancelsWaitingLoads(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 1, busdma.TagConfig{})
	m := q.take(t)
	_, err := q.tag.Load(m, m.Page())
	ok(t, err)
	var cancelled []int
	for i := range 3 {
		fails(t, q.pool.LoadFunc(make([]byte, 1), func(m *busdma.Map, segs []busdma.Segment, err error) {
			fails(t, err, busdma.ErrCancelled)
			if m != nil || segs != nil {
				t.Error("a map with an error")
			}
			cancelled = append(cancelled, i)
			// What is asked for now is refused, not lost.
			again := false
			fails(t, q.pool.LoadFunc(make([]byte, 1), func(_ *busdma.Map, _ []busdma.Segment, err error) {
				again = errors.Is(err, busdma.ErrDestroyed)
			}), busdma.ErrDestroyed)
			if !again {
				t.Error("callback after Destroy not called")
			}
			fails(t, q.pool.Destroy(), busdma.ErrDestroyed)
		}), busdma.ErrInProgress)
	}
	fails(t, q.pool.Destroy(), busdma.ErrBusy)
	if cancelled != nil {
		t.Fatal("a Destroy that failed has cancelled loads")
	}
	ok(t, q.tag.Unload(m))
	ok(t, q.pool.Destroy())
	if !slices.Equal(cancelled, []int{0, 1, 2}) {
		t.Errorf("cancelled %v", cancelled)
	}
}

func TestLoadOfAnAbandonedPoolIsCancelledWithThePool(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 1, busdma.TagConfig{})
	m := q.take(t)
	_, err := q.tag.Load(m, m.Page())
	ok(t, err)
	ok(t, q.tag.Publish(m))
	var got error
	fails(t, q.pool.LoadFunc(make([]byte, 1), func(_ *busdma.Map, _ []busdma.Segment, err error) { got = err }), busdma.ErrInProgress)
	q.pool.Abandon()
	q.check(t)
	if got != nil {
		t.Fatalf("Abandon: %v", got)
	}
	ok(t, q.pool.Destroy())
	fails(t, got, busdma.ErrCancelled)
}

// A callback that releases its map at once and asks for the next load must neither
// nest nor come out of order.
func TestCallbacksDoNotNest(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 2, busdma.TagConfig{})
	depth, order := 0, []int(nil)
	var load func(i int) error
	load = func(i int) error {
		return q.pool.LoadFunc(make([]byte, 1), func(m *busdma.Map, segs []busdma.Segment, err error) {
			if depth++; depth != 1 {
				t.Fatal("callback within a callback")
			}
			defer func() { depth-- }()
			ok(t, err)
			order = append(order, i)
			q.check(t)
			if i < 20000 { // deep enough to be noticed on the stack
				fails(t, load(i+1), busdma.ErrInProgress)
			}
			q.release(t, m)
		})
	}
	ok(t, load(0))
	if len(order) != 20001 || !slices.IsSorted(order) {
		t.Errorf("%d callbacks, sorted %t", len(order), slices.IsSorted(order))
	}
	if q.pool.Free() != 2 {
		t.Errorf("%d pooled", q.pool.Free())
	}
	q.check(t)
}

// The same from a Put, with loads waiting on both sides of the callback's own.
func TestLoadOfACallbackWaitsItsTurn(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 1, busdma.TagConfig{})
	held := q.take(t)
	var order []int
	add := func(i int, more func()) {
		fails(t, q.pool.LoadFunc(make([]byte, 1), func(m *busdma.Map, segs []busdma.Segment, err error) {
			ok(t, err)
			order = append(order, i)
			ok(t, q.tag.Unload(m))
			ok(t, q.pool.Put(m)) // before more: a map is pooled while loads wait
			more()
		}), busdma.ErrInProgress)
	}
	none := func() {}
	add(0, func() { add(3, none); add(4, none) })
	add(1, func() { add(5, none) })
	add(2, none)
	ok(t, q.pool.Put(held))
	if !slices.Equal(order, []int{0, 1, 2, 3, 4, 5}) {
		t.Errorf("order %v", order)
	}
	q.check(t)
}

func TestDestroyInACallbackCancelsWhatWaits(t *testing.T) {
	g := heapgrants.New(t)
	q := newQueue(t, g, 1, busdma.TagConfig{})
	held := q.take(t)
	var events []error
	fails(t, q.pool.LoadFunc(make([]byte, 1), func(m *busdma.Map, segs []busdma.Segment, err error) {
		events = append(events, err)
		fails(t, q.pool.Destroy(), busdma.ErrBusy) // its own load stands
		ok(t, q.tag.Unload(m))
		ok(t, q.pool.Destroy())
		fails(t, q.pool.Put(m), busdma.ErrDestroyed)
		ok(t, q.slab.Free())
	}), busdma.ErrInProgress)
	fails(t, q.pool.LoadFunc(make([]byte, 1), func(m *busdma.Map, segs []busdma.Segment, err error) {
		events = append(events, err)
	}), busdma.ErrInProgress)
	ok(t, q.pool.Put(held))
	if len(events) != 2 || events[0] != nil || !errors.Is(events[1], busdma.ErrCancelled) {
		t.Errorf("events %v", events)
	}
	if g.Held() != 0 {
		t.Errorf("%d pages held", g.Held())
	}
}

// A callback's panic is its caller's affair; the pool is good afterwards.
func TestPoolIsGoodAfterAPanicOfACallback(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 2, busdma.TagConfig{})
	func() {
		defer func() { _ = recover() }()
		_ = q.pool.LoadFunc(make([]byte, 1), func(*busdma.Map, []busdma.Segment, error) { panic("callback") })
	}()
	done := false
	ok(t, q.pool.LoadFunc(make([]byte, xen.PageSize), func(m *busdma.Map, _ []busdma.Segment, err error) { done = true }))
	if !done {
		t.Error("callback not called")
	}
	q.check(t)
}
