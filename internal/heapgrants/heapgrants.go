// Package heapgrants is granted pages on Go's heap, so that the race detector sees every byte,
// with the other domain's side of the same pages. It is for tests only.
package heapgrants

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// poison is in every byte of a page that was freed.
const poison = 0xdb

// Grants are [xen.Grants] of one process. Free poisons the pages. While the peer has them
// mapped, it keeps their last contents instead, as gntalloc keeps the pages. Verify finds what
// was written to them after that.
type Grants struct {
	mu     sync.Mutex
	Max    int // pages that may be granted at once
	next   xen.GrantRef
	grants map[xen.GrantRef]*grant
}

type grant struct {
	page     []byte
	peer     xen.DomID
	writable bool
	mappings int    // by the peer
	ended    bool   // freed by this side
	last     []byte // contents at Free, while the peer has it mapped
}

// NewUnchecked returns grants whose pages nobody verifies.
func NewUnchecked() *Grants {
	return &Grants{Max: 1024, next: 8, grants: make(map[xen.GrantRef]*grant)}
}

// New returns grants that are verified at the end of the test.
func New(t testing.TB) *Grants {
	g := NewUnchecked()
	t.Cleanup(func() {
		if err := g.Verify(); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	return g
}

func (g *Grants) inUse() int {
	n := 0
	for _, e := range g.grants {
		if !e.ended || e.mappings != 0 {
			n++
		}
	}
	return n
}

// Held is the number of pages that count against the limit.
func (g *Grants) Held() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inUse()
}

// Alloc implements [xen.Grants].
func (g *Grants) Alloc(peer xen.DomID, n int, writable bool) (xen.Pages, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n <= 0 {
		return nil, errors.New("alloc of no pages")
	}
	if g.inUse()+n > g.Max {
		return nil, fmt.Errorf("grant %d pages: %w", n, xen.ErrGrantLimit)
	}
	p := &Pages{of: g, mem: make([]byte, n*xen.PageSize)}
	for i := range n {
		ref := g.next
		// A step, so that a ref is not taken for an index unnoticed.
		g.next += 3
		page := p.mem[i*xen.PageSize : (i+1)*xen.PageSize]
		g.grants[ref] = &grant{page: page, peer: peer, writable: writable}
		p.refs = append(p.refs, ref)
	}
	return p, nil
}

// Limit implements [xen.Grants].
func (g *Grants) Limit() (int, error) { return g.Max, nil }

// RaiseLimit implements [xen.Grants].
func (g *Grants) RaiseLimit(n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.Max = max(g.Max, n)
	return nil
}

// Close implements [xen.Grants]. It frees nothing, so that Verify finds what was not freed.
func (g *Grants) Close() error { return nil }

// Left implements [xen.Grants].
func (g *Grants) Left() (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, e := range g.grants {
		if e.ended && e.mappings != 0 {
			n++
		}
	}
	return n, nil
}

// Handle implements [xen.Grants]. Memory of this process cannot be handed over.
func (g *Grants) Handle() (int, error) { return -1, errors.ErrUnsupported }

// Adopt implements [xen.Grants], as Handle does.
func (g *Grants) Adopt(int) (xen.Grants, error) { return nil, errors.ErrUnsupported }

// Remap implements [xen.Grants], as Handle does.
func (g *Grants) Remap(uint64, []xen.GrantRef) (xen.Pages, error) { return nil, errors.ErrUnsupported }

// MapForeign maps the page that ref grants for domain by (GNTTABOP_map_grant_ref).
func (g *Grants) MapForeign(by xen.DomID, ref xen.GrantRef, write bool) ([]byte, error) {
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
func (g *Grants) UnmapForeign(ref xen.GrantRef) error {
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

func (e *grant) poison() {
	for i := range e.page {
		e.page[i] = poison
	}
}

// Verify finds pages that were not freed, and those written after they were.
func (g *Grants) Verify() error {
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

// Pages are [xen.Pages].
type Pages struct {
	of    *Grants
	mem   []byte
	refs  []xen.GrantRef
	freed bool
}

// Bytes implements [xen.Pages].
func (p *Pages) Bytes() []byte { return p.mem }

// Refs implements [xen.Pages].
func (p *Pages) Refs() []xen.GrantRef { return p.refs }

// Index implements [xen.Pages].
func (p *Pages) Index() uint64 { return 0 }

// NotifyUnmap implements [xen.Pages].
func (p *Pages) NotifyUnmap(int, bool, xen.Port) error { return errors.ErrUnsupported }

// Free implements [xen.Pages].
func (p *Pages) Free() error {
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
