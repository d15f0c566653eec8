package busdma_test

import (
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

func TestTagRefusesImpossibleLimits(t *testing.T) {
	for name, cfg := range map[string]busdma.TagConfig{
		"boundary over a page":         {Boundary: 2 * xen.PageSize},
		"boundary not a power of two":  {Boundary: 3000},
		"negative boundary":            {Boundary: -4096},
		"segment over a page":          {MaxSegmentSize: xen.PageSize + 1},
		"negative segment":             {MaxSegmentSize: -1},
		"negative number of segments":  {MaxSegments: -1},
		"more segments than map ids":   {MaxSegments: busdma.MaxMaps + 1},
		"smallest integer as boundary": {Boundary: -1 << 63},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := busdma.NewTag(heapgrants.New(t), cfg)
			fails(t, err, busdma.ErrRange)
		})
	}
}

func TestTagDefaultsAreOnePage(t *testing.T) {
	tag, err := busdma.NewTag(heapgrants.New(t), busdma.TagConfig{Peer: peer})
	ok(t, err)
	want := busdma.TagConfig{Peer: peer, Boundary: xen.PageSize, MaxSegmentSize: xen.PageSize, MaxSegments: 1}
	if tag.Config() != want {
		t.Errorf("got %+v, want %+v", tag.Config(), want)
	}
}

func TestTagWithSlabsIsNotDestroyed(t *testing.T) {
	tag, err := busdma.NewTag(heapgrants.New(t), busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AllocSlab(2)
	ok(t, err)
	fails(t, tag.Destroy(), busdma.ErrBusy)
	ok(t, slab.Free())
	ok(t, tag.Destroy())
	fails(t, tag.Destroy(), busdma.ErrDestroyed)
	_, err = tag.AllocSlab(1)
	fails(t, err, busdma.ErrDestroyed)
}

func TestReadOnlyTagKeepsThePeerFromWriting(t *testing.T) {
	for _, readOnly := range []bool{true, false} {
		g := heapgrants.New(t)
		q := newQueue(t, g, 1, busdma.TagConfig{ReadOnly: readOnly})
		ref := q.take(t).Ref()
		_, err := g.MapForeign(peer, ref, true)
		if (err == nil) == readOnly {
			t.Errorf("read-only %t: peer's writable mapping: %v", readOnly, err)
		}
		if err == nil {
			ok(t, g.UnmapForeign(ref))
		}
		if _, err := g.MapForeign(self, ref, false); err == nil {
			t.Error("another domain than the peer can map the page")
		}
	}
}

func TestSlabOverTheGrantLimitLeavesNothingBehind(t *testing.T) {
	g := heapgrants.New(t)
	g.Max = 4
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	_, err = tag.AllocSlab(5)
	fails(t, err, xen.ErrGrantLimit)
	for _, pages := range []int{0, -1} {
		_, err = tag.AllocSlab(pages)
		fails(t, err, busdma.ErrRange)
	}
	if g.Held() != 0 {
		t.Errorf("%d pages held", g.Held())
	}
	ok(t, tag.Destroy())
}

func TestSlabWithMapsIsNotFreed(t *testing.T) {
	g := heapgrants.New(t)
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AllocSlab(2)
	ok(t, err)
	m, err := slab.NewMap(1)
	ok(t, err)
	fails(t, slab.Free(), busdma.ErrBusy)
	ok(t, m.Destroy())
	ok(t, slab.Free())
	if g.Held() != 0 || slab.Bytes() != nil || m.Page() != nil {
		t.Error("freed pages can still be reached")
	}
	fails(t, slab.Free(), busdma.ErrDestroyed)
	_, err = slab.NewMap(0)
	fails(t, err, busdma.ErrDestroyed)
	_, err = busdma.NewPool(tag, slab, nil)
	fails(t, err, busdma.ErrDestroyed)
	ok(t, tag.Destroy())
}

func TestPageHasOneMap(t *testing.T) {
	tag, err := busdma.NewTag(heapgrants.New(t), busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AllocSlab(2)
	ok(t, err)
	for _, page := range []int{-1, 2, 1 << 40} {
		_, err = slab.NewMap(page)
		fails(t, err, busdma.ErrRange)
	}
	m, err := slab.NewMap(0)
	ok(t, err)
	_, err = slab.NewMap(0)
	fails(t, err, busdma.ErrBusy)
	_, err = busdma.NewPool(tag, slab, nil)
	fails(t, err, busdma.ErrBusy)
	ok(t, m.Destroy())

	pool, err := busdma.NewPool(tag, slab, nil)
	ok(t, err)
	_, err = slab.NewMap(1)
	fails(t, err, busdma.ErrBusy)
	_, err = busdma.NewPool(tag, slab, nil)
	fails(t, err, busdma.ErrBusy)
	ok(t, pool.Destroy())
	ok(t, slab.Free())
}

// A ring's page is a map of no pool.
func TestMapOfNoPoolGoesThroughTheStates(t *testing.T) {
	g := heapgrants.New(t)
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AllocSlab(3)
	ok(t, err)
	m, err := slab.NewMap(2)
	ok(t, err)
	if m.State() != busdma.Taken || m.Index() != 2 || &m.Page()[0] != &slab.Bytes()[2*xen.PageSize] {
		t.Errorf("%v map %d", m.State(), m.Index())
	}
	seg, err := tag.Load(m, m.Page())
	ok(t, err)
	if want := (busdma.Segment{Ref: m.Ref(), Len: xen.PageSize}); seg != want {
		t.Errorf("got %+v, want %+v", seg, want)
	}
	fails(t, m.Destroy(), busdma.ErrBusy)
	ok(t, tag.Publish(m))
	fails(t, m.Destroy(), busdma.ErrBusy)
	ok(t, tag.Quarantine(m))
	ok(t, m.Destroy())
	fails(t, m.Destroy(), busdma.ErrDestroyed)
	_, err = slab.NewMap(2)
	fails(t, err, busdma.ErrQuarantined)
	_, err = busdma.NewPool(tag, slab, nil)
	fails(t, err, busdma.ErrQuarantined)
	ok(t, slab.Free())
}

// shortPages has a grant too many for its bytes.
type shortPages struct{ *heapgrants.Pages }

func (p shortPages) Refs() []xen.GrantRef { return append(p.Pages.Refs(), 99) }

type shortGrants struct{ *heapgrants.Grants }

func (g shortGrants) Alloc(peer xen.DomID, n int, writable bool) (xen.Pages, error) {
	p, err := g.Grants.Alloc(peer, n, writable)
	if err != nil {
		return nil, err
	}
	return shortPages{p.(*heapgrants.Pages)}, nil
}

func TestSlabRefusesGrantsWithoutPages(t *testing.T) {
	g := heapgrants.New(t)
	tag, err := busdma.NewTag(shortGrants{g}, busdma.TagConfig{Peer: peer})
	ok(t, err)
	_, err = tag.AllocSlab(2)
	fails(t, err, busdma.ErrRange)
	if g.Held() != 0 {
		t.Error("the pages leak")
	}
	ok(t, tag.Destroy())
}

// stuckPages cannot be freed at first.
type stuckPages struct {
	*heapgrants.Pages
	stuck bool
}

func (p *stuckPages) Free() error {
	if p.stuck {
		p.stuck = false
		return xen.ErrClosed
	}
	return p.Pages.Free()
}

func TestSlabThatWasNotFreedIsNotForgotten(t *testing.T) {
	g := heapgrants.New(t)
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	pages, err := g.Alloc(peer, 1, true)
	ok(t, err)
	slab, err := tag.AdoptSlab(&stuckPages{pages.(*heapgrants.Pages), true})
	ok(t, err)
	fails(t, slab.Free(), xen.ErrClosed)
	fails(t, tag.Destroy(), busdma.ErrBusy)
	ok(t, slab.Free())
	ok(t, tag.Destroy())
	_, err = tag.AdoptSlab(pages)
	fails(t, err, busdma.ErrDestroyed)
}
