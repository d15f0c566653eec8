package busdma_test

import (
	"bytes"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// The faults of D18553's own code that concern maps and pools. Each test would have
// found one of them.

// pool_idx was unsigned, set to -1 and tested with < 0: an empty pool went unnoticed
// and the next pop read in front of the array.
func TestReviewExhaustedPoolGivesNoMap(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 5, busdma.TagConfig{})
	seen := make(map[xen.GrantRef]bool)
	for range 5 {
		seen[q.take(t).Ref()] = true
	}
	for range 3 {
		if m, ok := q.pool.Take(); ok || m != nil {
			t.Fatal("a sixth map of five")
		}
		if run, ok := q.pool.TakeRun(1); ok || run != nil {
			t.Fatal("a run of none")
		}
	}
	if len(seen) != 5 || q.pool.Free() != 0 {
		t.Errorf("%d maps, %d pooled", len(seen), q.pool.Free())
	}
	q.check(t)
}

// Repooling did not look whether the map was in the pool already.
func TestReviewMapIsInThePoolOnce(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 3, busdma.TagConfig{})
	m := q.take(t)
	ok(t, q.pool.Put(m))
	fails(t, q.pool.Put(m), busdma.ErrNotTaken)
	seen := make(map[*busdma.Map]bool)
	for m, ok := q.pool.Take(); ok; m, ok = q.pool.Take() {
		if seen[m] {
			t.Fatalf("map %d was taken twice", m.Index())
		}
		seen[m] = true
	}
	if len(seen) != 3 {
		t.Errorf("%d maps", len(seen))
	}
	q.check(t)
}

// Repooling did not look whether the map was still loaded.
func TestReviewLoadedMapIsNotPutBack(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 1, busdma.TagConfig{})
	m := q.take(t)
	_, err := q.tag.Load(m, m.Page())
	ok(t, err)
	fails(t, q.pool.Put(m), busdma.ErrNotTaken)
	ok(t, q.tag.Publish(m))
	fails(t, q.pool.Put(m), busdma.ErrNotTaken)
	if _, ok := q.pool.Take(); ok {
		t.Error("the map in flight was taken again")
	}
	q.check(t)
}

// disconnect_rxq warned "Some maps are still in-use" and destroyed them.
func TestReviewPoolWithMapsInUseIsNotDestroyed(t *testing.T) {
	g := heapgrants.New(t)
	q := newQueue(t, g, 2, busdma.TagConfig{ReadOnly: true})
	m := q.take(t)
	copy(m.Page(), "a frame")
	_, err := q.tag.Load(m, m.Page()[:7])
	ok(t, err)
	fails(t, q.pool.Destroy(), busdma.ErrBusy)
	fails(t, m.Destroy(), busdma.ErrBusy)
	ok(t, q.tag.Publish(m))
	fails(t, q.pool.Destroy(), busdma.ErrBusy)
	fails(t, q.slab.Free(), busdma.ErrBusy)
	// Nothing has changed: the queue goes on.
	if m.State() != busdma.InFlight || string(m.Page()[:7]) != "a frame" || q.pool.Free() != 1 {
		t.Errorf("map is %v", m.State())
	}
	q.check(t)
	ok(t, q.tag.Unload(m))
	ok(t, q.pool.Put(m))
	ok(t, q.pool.Destroy())
}

// xn_release_*_bufs unloaded and repooled what the backend still had mapped, and
// xn_txeof panicked when it noticed. Here the page is neither reused nor a reason to
// stop.
func TestReviewPageMappedByTheBackendIsNotReused(t *testing.T) {
	g := heapgrants.New(t)
	q := newQueue(t, g, 4, busdma.TagConfig{ReadOnly: true})
	var held *busdma.Map
	for range 2 {
		m := q.take(t)
		copy(m.Page(), pattern(1514, byte(m.Index())))
		_, err := q.tag.Load(m, m.Page()[:1514])
		ok(t, err)
		ok(t, q.tag.Publish(m))
		held = m
	}
	ref, index := held.Ref(), byte(held.Index())
	view, err := g.MapForeign(peer, ref, false)
	ok(t, err)

	// The connection is gone without responses.
	if n := q.pool.Abandon(); n != 2 {
		t.Errorf("%d maps abandoned", n)
	}
	q.check(t)
	fails(t, q.tag.Unload(held), busdma.ErrNotLoaded)
	fails(t, q.pool.Put(held), busdma.ErrNotTaken)
	for m, ok := q.pool.Take(); ok; m, ok = q.pool.Take() {
		if m.Ref() == ref {
			t.Fatal("the page the peer has mapped was taken")
		}
		clear(m.Page())
	}
	ok(t, q.pool.Destroy())
	ok(t, q.slab.Free())
	if g.Held() != 1 {
		t.Errorf("%d pages held back, want the one that is mapped", g.Held())
	}

	// A new connection writes its own pages, not the old one.
	q.fill(t, 4)
	for m, ok := q.pool.Take(); ok; m, ok = q.pool.Take() {
		if m.Ref() == ref {
			t.Fatal("the new slab has the old grant")
		}
		copy(m.Page(), bytes.Repeat([]byte{0xee}, xen.PageSize))
	}
	if !bytes.Equal(view[:1514], pattern(1514, index)) {
		t.Error("the peer sees another frame in the page it has mapped")
	}
	ok(t, g.UnmapForeign(ref))
}

// xn_alloc_rx_buffers and xn_assemble_tx_request ignored the error of a load and
// gave the backend a slot with whatever was in the variable.
func TestReviewFailedLoadDoesNotGoOut(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 2, busdma.TagConfig{})
	m := q.take(t)
	seg, err := q.tag.Load(m, make([]byte, xen.PageSize+1))
	fails(t, err, busdma.ErrTooLarge)
	if seg != (busdma.Segment{}) {
		t.Errorf("segment %+v", seg)
	}
	// Who ignores it comes no further.
	fails(t, q.tag.Publish(m), busdma.ErrNotLoaded)
	fails(t, q.tag.Sync(m, busdma.PreWrite), busdma.ErrNotLoaded)
	ok(t, q.pool.Put(m))
	q.check(t)
}

// xn_rebuild_rx_bufs loaded maps again that had not been unloaded.
func TestReviewLoadedMapIsNotLoadedAgain(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 1, busdma.TagConfig{})
	m := q.take(t)
	for range 2 {
		_, err := q.tag.Load(m, m.Page()[:100])
		if m.State() == busdma.InFlight {
			fails(t, err, busdma.ErrNotTaken)
			break
		}
		ok(t, err)
		ok(t, q.tag.Publish(m))
	}
	if got := q.pool.Counts(); got.InFlight != 1 || got.Loaded != 0 {
		t.Errorf("counts %+v", got)
	}
	q.check(t)
}

// disconnect_*xq destroyed every entry of the pool's array, though entries above the
// index were stale duplicates of maps in use. Here a map has one place.
func TestReviewEachMapIsDestroyedOnce(t *testing.T) {
	g := heapgrants.New(t)
	q := newQueue(t, g, 8, busdma.TagConfig{})
	for range 3 { // stir
		a, b, c := q.take(t), q.take(t), q.take(t)
		ok(t, q.pool.Put(b))
		ok(t, q.pool.Put(a))
		ok(t, q.pool.Put(c))
	}
	places := make(map[xen.GrantRef]int)
	for i := range 8 {
		m, _ := q.pool.At(i)
		places[m.Ref()]++
	}
	if len(places) != 8 {
		t.Errorf("%d grants in 8 maps", len(places))
	}
	ok(t, q.pool.Destroy())
	fails(t, q.pool.Destroy(), busdma.ErrDestroyed)
	ok(t, q.slab.Free())
	if g.Held() != 0 {
		t.Errorf("%d pages held", g.Held())
	}
}

// When the set-up of a queue failed half way, what had been made leaked.
func TestReviewHalfMadeQueueLeaksNothing(t *testing.T) {
	g := heapgrants.New(t)
	g.Max = 6
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	rx, err := tag.AllocSlab(4)
	ok(t, err)
	pool, err := busdma.NewPool(tag, rx, nil)
	ok(t, err)
	_, err = tag.AllocSlab(4)
	fails(t, err, xen.ErrGrantLimit)
	ok(t, pool.Check())
	ok(t, pool.Destroy())
	ok(t, rx.Free())
	ok(t, tag.Destroy())
	if g.Held() != 0 {
		t.Errorf("%d pages held", g.Held())
	}
}
