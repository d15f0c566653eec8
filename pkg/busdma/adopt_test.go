package busdma_test

import (
	"testing"
	"unsafe"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
)

// legacy is what a process that was killed leaves: granted pages and a PoolState
// with a map in each state, by number: taken, loaded, in flight, quarantined, pooled.
func legacy(t *testing.T, g *heapGrants) (*heapPages, *busdma.PoolState) {
	t.Helper()
	granted, err := g.Alloc(peer, 5, true)
	ok(t, err)
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AdoptSlab(granted)
	ok(t, err)
	st := new(busdma.PoolState)
	pool, err := busdma.NewPool(tag, slab, st)
	ok(t, err)
	for i := range 4 {
		m, _ := pool.Take()
		if i > 0 {
			_, err = tag.Load(m, make([]byte, 10))
			ok(t, err)
		}
		if i > 1 {
			ok(t, tag.Publish(m))
		}
	}
	last, _ := pool.At(3)
	ok(t, tag.Quarantine(last))
	return granted.(*heapPages), st
}

func TestNextProcessLosesMapsInFlight(t *testing.T) {
	g := newHeapGrants(t)
	granted, st := legacy(t, g)
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AdoptSlab(granted)
	ok(t, err)
	pool, err := busdma.AdoptPool(tag, slab, st)
	ok(t, err)
	ok(t, pool.Check())
	want := busdma.Counts{Free: 3, InFlight: 1, Quarantined: 1, Created: 5}
	if got := pool.Counts(); got != want || pool.Free() != 3 {
		t.Errorf("%+v with %d pooled, want %+v with 3", got, pool.Free(), want)
	}
	m, _ := pool.At(2)
	if m.State() != busdma.InFlight {
		t.Fatalf("map 2 is %v", m.State())
	}
	ok(t, tag.Sync(m, busdma.PostRead))
	ok(t, tag.Unload(m))
	ok(t, pool.Put(m))
	ok(t, pool.Check())
	ok(t, pool.Destroy())
	ok(t, slab.Free())
	ok(t, tag.Destroy())
}

func TestCorruptStateIsAdopted(t *testing.T) {
	g := newHeapGrants(t)
	granted, st := legacy(t, g)
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AdoptSlab(granted)
	ok(t, err)
	// Whatever byte of it is another, it is noticed, and nothing is taken over.
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(st)), unsafe.Sizeof(*st)-4) // the rest is padding
	for i := range bytes {
		old := bytes[i]
		for _, flip := range []byte{1, 8, 0x80, 0xff} {
			bytes[i] = old ^ flip
			_, err := busdma.AdoptPool(tag, slab, st)
			if err == nil {
				t.Fatalf("byte %d ^ %#x: adopted", i, flip)
			}
			fails(t, err, busdma.ErrCorrupt)
		}
		bytes[i] = old
	}
	other, err := tag.AllocSlab(4)
	ok(t, err)
	_, err = busdma.AdoptPool(tag, other, st)
	fails(t, err, busdma.ErrCorrupt)
	ok(t, other.Free())
	pool, err := busdma.AdoptPool(tag, slab, st)
	ok(t, err)
	pool.Abandon()
	ok(t, pool.Destroy())
	ok(t, slab.Free())
}
