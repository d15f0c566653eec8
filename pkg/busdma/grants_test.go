package busdma_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const (
	self   xen.DomID = 7 // the domain under test
	peer   xen.DomID = 3
	poison           = 0xdb
)

// heapGrants is a busdma.Allocator on Go's heap, so that the race detector sees every byte,
// with the other domain's side of the same pages. Free poisons the pages, or keeps
// their last contents while the peer has them mapped as gntalloc keeps the pages;
// verify finds what was written to them afterwards.
type heapGrants struct {
	mu     sync.Mutex
	limit  int
	next   xen.GrantRef
	grants map[xen.GrantRef]*heapGrant
}

type heapGrant struct {
	page     []byte
	peer     xen.DomID
	writable bool
	mappings int    // by the peer
	ended    bool   // freed by this side
	last     []byte // contents at Free, while the peer has it mapped
}

func newHeap() *heapGrants {
	return &heapGrants{limit: 1024, next: 8, grants: make(map[xen.GrantRef]*heapGrant)}
}

// newHeapGrants verifies at the end of the test.
func newHeapGrants(t testing.TB) *heapGrants {
	g := newHeap()
	t.Cleanup(func() {
		if err := g.verify(); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	return g
}

func (g *heapGrants) inUse() int {
	n := 0
	for _, e := range g.grants {
		if !e.ended || e.mappings != 0 {
			n++
		}
	}
	return n
}

// Held is how many pages count against the limit.
func (g *heapGrants) Held() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inUse()
}

func (g *heapGrants) Alloc(peer xen.DomID, n int, writable bool) (xen.Pages, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n <= 0 {
		return nil, errors.New("alloc of no pages")
	}
	if g.inUse()+n > g.limit {
		return nil, fmt.Errorf("grant %d pages: %w", n, xen.ErrGrantLimit)
	}
	p := &heapPages{of: g, mem: make([]byte, n*xen.PageSize)}
	for i := range n {
		ref := g.next
		// A step, so that a ref is not taken for an index unnoticed.
		g.next += 3
		page := p.mem[i*xen.PageSize : (i+1)*xen.PageSize]
		g.grants[ref] = &heapGrant{page: page, peer: peer, writable: writable}
		p.refs = append(p.refs, ref)
	}
	return p, nil
}

func (g *heapGrants) Limit() (int, error) { return g.limit, nil }

func (g *heapGrants) RaiseLimit(n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limit = max(g.limit, n)
	return nil
}

func (g *heapGrants) Close() error { return nil }

// MapForeign gives by the page that ref grants (GNTTABOP_map_grant_ref).
func (g *heapGrants) MapForeign(by xen.DomID, ref xen.GrantRef, write bool) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e, ok := g.grants[ref]
	if !ok || e.ended || e.peer != by || write && !e.writable {
		return nil, fmt.Errorf("domain %d may not map grant %d, write %t", by, ref, write)
	}
	e.mappings++
	return e.page, nil
}

// UnmapForeign ends one mapping.
func (g *heapGrants) UnmapForeign(ref xen.GrantRef) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	e, ok := g.grants[ref]
	if !ok || e.mappings == 0 {
		return fmt.Errorf("grant %d is not mapped", ref)
	}
	e.mappings--
	if e.mappings == 0 && e.ended {
		if !bytes.Equal(e.page, e.last) {
			return fmt.Errorf("grant %d: page written after it was freed", ref)
		}
		e.poison()
	}
	return nil
}

func (e *heapGrant) poison() {
	for i := range e.page {
		e.page[i] = poison
	}
}

// verify finds pages that were not freed, and those written after they were.
func (g *heapGrants) verify() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for ref, e := range g.grants {
		switch {
		case !e.ended:
			errs = append(errs, fmt.Errorf("grant %d was not freed", ref))
		case e.mappings != 0:
			errs = append(errs, fmt.Errorf("grant %d is still mapped by the peer", ref))
		case !bytes.Equal(e.page, bytes.Repeat([]byte{poison}, xen.PageSize)):
			errs = append(errs, fmt.Errorf("grant %d: page written after it was freed", ref))
		}
	}
	return errors.Join(errs...)
}

// heapPages is xen.Pages.
type heapPages struct {
	of    *heapGrants
	mem   []byte
	refs  []xen.GrantRef
	freed bool
}

func (p *heapPages) Bytes() []byte                         { return p.mem }
func (p *heapPages) Refs() []xen.GrantRef                  { return p.refs }
func (p *heapPages) Index() uint64                         { return 0 }
func (p *heapPages) NotifyUnmap(int, bool, xen.Port) error { return errors.ErrUnsupported }

func (p *heapPages) Free() error {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if p.freed {
		return errors.New("pages freed twice")
	}
	p.freed = true
	for _, ref := range p.refs {
		e := p.of.grants[ref]
		e.ended = true
		if e.mappings != 0 {
			e.last = bytes.Clone(e.page)
		} else {
			e.poison()
		}
	}
	return nil
}
