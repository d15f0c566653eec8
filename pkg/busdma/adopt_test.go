package busdma_test

import (
	"testing"
	"unsafe"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
)

// legacy is what a process that was killed leaves: granted pages and a PoolState
// with a map in each state, by number: taken, loaded, in flight, quarantined, pooled.
func legacy(t *testing.T, g *heapgrants.Grants) (*heapgrants.Pages, *busdma.PoolState) {
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
	return granted.(*heapgrants.Pages), st
}

func TestNextProcessHasTheMapsInFlight(t *testing.T) {
	g := heapgrants.New(t)
	granted, st := legacy(t, g)
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AdoptSlab(granted)
	ok(t, err)
	pool, err := busdma.AdoptPool(tag, slab, st, nil)
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

// A process can die between any two stores: whatever the sums say then, the pool is
// that of the maps' own states.
func TestStateLeftInTheMiddleOfAStepIsAdopted(t *testing.T) {
	g := heapgrants.New(t)
	granted, st := legacy(t, g)
	left := *st
	states := statesOf(&left)
	whole := unsafe.Slice((*byte)(unsafe.Pointer(st)), unsafe.Sizeof(*st))
	created := len(whole) - 8 // the last word but one is the number of maps
	for i := range created {
		if i >= states && i < states+busdma.MaxMaps {
			continue
		}
		for _, flip := range []byte{1, 0x80, 0xff} {
			*st = left
			whole[i] ^= flip
			tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
			ok(t, err)
			slab, err := tag.AdoptSlab(granted)
			ok(t, err)
			pool, err := busdma.AdoptPool(tag, slab, st, nil)
			ok(t, err)
			ok(t, pool.Check())
			if c := pool.Counts(); c.InFlight != 1 || c.Quarantined != 1 || c.Free != 3 {
				t.Fatalf("byte %d ^ %#x: %+v", i, flip, c)
			}
		}
	}
	ok(t, granted.Free())
}

// statesOf finds the maps' states in st: map 3 of legacy is in quarantine.
func statesOf(st *busdma.PoolState) int {
	b := unsafe.Slice((*byte)(unsafe.Pointer(st)), unsafe.Sizeof(*st))
	for i := range b[:len(b)-4] {
		if b[i] == byte(busdma.Taken) && b[i+1] == byte(busdma.Loaded) && b[i+2] == byte(busdma.InFlight) && b[i+3] == byte(busdma.Quarantined) {
			return i
		}
	}
	return -1
}

func TestCallerSaysWhatIsInFlight(t *testing.T) {
	g := heapgrants.New(t)
	granted, st := legacy(t, g)
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AdoptSlab(granted)
	ok(t, err)
	pool, err := busdma.AdoptPool(tag, slab, st, func(i int, was busdma.State) bool {
		if i == 2 && was != busdma.InFlight || i == 3 {
			t.Errorf("asked for map %d, %v", i, was)
		}
		return i == 0
	})
	ok(t, err)
	ok(t, pool.Check())
	for i, want := range []busdma.State{busdma.InFlight, busdma.Pooled, busdma.Pooled, busdma.Quarantined, busdma.Pooled} {
		if m, _ := pool.At(i); m.State() != want {
			t.Errorf("map %d is %v, want %v", i, m.State(), want)
		}
	}
	pool.Abandon()
	ok(t, pool.Destroy())
	ok(t, slab.Free())
}

func TestCorruptStateIsRefused(t *testing.T) {
	g := heapgrants.New(t)
	granted, st := legacy(t, g)
	left := *st
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AdoptSlab(granted)
	ok(t, err)
	// A state that there is not, a map too many, another number of maps.
	states := statesOf(&left)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(st)), unsafe.Sizeof(*st))
	for _, i := range []int{states, states + 4, states + 5, states + busdma.MaxMaps - 1, len(bytes) - 8} {
		bytes[i] ^= 0x88
		_, err := busdma.AdoptPool(tag, slab, st, nil)
		if err == nil {
			t.Fatalf("byte %d: adopted", i)
		}
		fails(t, err, busdma.ErrCorrupt)
		*st = left
	}
	other, err := tag.AllocSlab(4)
	ok(t, err)
	_, err = busdma.AdoptPool(tag, other, st, nil)
	fails(t, err, busdma.ErrCorrupt)
	ok(t, other.Free())
	pool, err := busdma.AdoptPool(tag, slab, st, nil)
	ok(t, err)
	pool.Abandon()
	ok(t, pool.Destroy())
	ok(t, slab.Free())
}
