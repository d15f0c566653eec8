package xensim

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

// Grants is a domain's open gntalloc. It implements [xen.Grants].
type Grants struct {
	caller caller

	mu     sync.Mutex
	live   map[*Pages]struct{}
	closed bool
}

func newGrants(c caller) *Grants {
	return &Grants{caller: c, live: make(map[*Pages]struct{})}
}

// Alloc implements [xen.Grants]. The pages are a [*Pages].
func (g *Grants) Alloc(peer xen.DomID, n int, writable bool) (xen.Pages, error) {
	if n <= 0 || n > maxAlloc {
		return nil, fmt.Errorf("allocate %d granted pages: %w", n, unix.EINVAL)
	}
	q := request{Op: opAlloc, Domain: uint32(peer), Count: uint32(n)}
	if writable {
		q.Flags = flagWritable
	}
	p, err := g.get(q)
	if errors.Is(err, unix.ENOSPC) {
		err = xen.ErrGrantLimit
	}
	if err != nil {
		return nil, fmt.Errorf("allocate %d granted pages: %w", n, err)
	}
	return p, nil
}

// Remap implements [xen.Grants].
func (g *Grants) Remap(index uint64, refs []xen.GrantRef) (xen.Pages, error) {
	p, err := g.get(request{Op: opSlab, Index: index, Count: uint32(len(refs))})
	if err == nil && !slices.Equal(p.refs, refs) {
		err = errors.New("they have other grant references")
	}
	if err != nil {
		return nil, fmt.Errorf("map %d granted pages again: %w", len(refs), err)
	}
	return p, nil
}

// Adopt implements [xen.Grants].
func (g *Grants) Adopt(fd int) (xen.Grants, error) {
	adopted, err := AdoptGrants(fd)
	if err != nil {
		return nil, err // not a nil *Grants in an interface
	}
	return adopted, nil
}

// get makes a call that returns a slab.
func (g *Grants) get(q request) (*Pages, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, xen.ErrClosed
	}
	r, err := g.caller.call(q)
	if err != nil {
		return nil, err
	}
	if len(r.Objects) != 1 || len(r.Values) != 1+int(q.Count) {
		r.close()
		return nil, unix.EPROTO
	}
	v, err := r.Objects[0].open()
	if err != nil {
		g.caller.call(request{Op: opFree, Index: r.Values[0]})
		return nil, err
	}
	p := &Pages{grants: g, view: v, index: r.Values[0], refs: make([]xen.GrantRef, q.Count)}
	for i, ref := range r.Values[1:] {
		p.refs[i] = xen.GrantRef(ref)
	}
	g.live[p] = struct{}{}
	return p, nil
}

// Limit implements [xen.Grants].
func (g *Grants) Limit() (int, error) {
	r, err := g.caller.call(request{Op: opLimit})
	if err != nil {
		return 0, fmt.Errorf("read limit of granted pages: %w", err)
	}
	if len(r.Values) != 1 {
		return 0, fmt.Errorf("read limit of granted pages: %w", unix.EPROTO)
	}
	return int(r.Values[0]), nil
}

// Left implements [xen.Grants], for all that the domain has freed.
func (g *Grants) Left() (int, error) {
	r, err := g.caller.call(request{Op: opLeft})
	if err != nil {
		return 0, fmt.Errorf("count pages that are left behind: %w", err)
	}
	if len(r.Values) != 1 {
		return 0, fmt.Errorf("count pages that are left behind: %w", unix.EPROTO)
	}
	return int(r.Values[0]), nil
}

// RaiseLimit implements [xen.Grants]. [Options.AllowRaise] says whether it may.
func (g *Grants) RaiseLimit(n int) error {
	if n < 0 || n > maxGrants {
		return fmt.Errorf("raise limit of granted pages to %d: %w", n, unix.EINVAL)
	}
	if _, err := g.caller.call(request{Op: opRaiseLimit, Count: uint32(n)}); err != nil {
		return fmt.Errorf("raise limit of granted pages to %d: %w", n, err)
	}
	return nil
}

// Handle returns a duplicate of the handle's descriptor, which the caller owns. As
// long as a process has one, the grants stand. There is none in the server's own
// process.
func (g *Grants) Handle() (int, error) { return duplicateHandle(g.caller) }

// AdoptGrants makes Grants of a descriptor that [Grants.Handle] returned, which it
// takes over. [Grants.Remap] maps what it has. Only one process at a time may use a
// handle.
func AdoptGrants(fd int) (*Grants, error) {
	conn, err := adoptSocket(fd)
	if err != nil {
		return nil, fmt.Errorf("adopt grants: %w", err)
	}
	return newGrants(&socketCaller{conn: conn}), nil
}

// Close implements [xen.Grants]. It unmaps the pages that were not freed.
func (g *Grants) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	var errs []error
	for p := range g.live {
		errs = append(errs, p.view.close())
	}
	clear(g.live)
	return errors.Join(append(errs, g.caller.close())...)
}

// Pages is one allocation. It implements [xen.Pages].
type Pages struct {
	grants *Grants
	view   view
	index  uint64
	refs   []xen.GrantRef
}

// Bytes implements [xen.Pages].
func (p *Pages) Bytes() []byte { return p.view.mem }

// Refs implements [xen.Pages].
func (p *Pages) Refs() []xen.GrantRef { return p.refs }

// Index implements [xen.Pages].
func (p *Pages) Index() uint64 { return p.index }

// NotifyUnmap implements [xen.Pages]. It happens at Free, or when the last process
// that has the handle is gone.
func (p *Pages) NotifyUnmap(offset int, clear bool, port xen.Port) error {
	if offset < 0 || offset >= pages(len(p.refs)) {
		return fmt.Errorf("set unmap notification at offset %d: %w", offset, unix.EINVAL)
	}
	q := request{Op: opUnmapNotify, Index: p.index, Offset: uint32(offset), Number: uint32(port)}
	if clear {
		q.Flags |= flagClearByte
	}
	if port != 0 {
		q.Flags |= flagSendEvent
	}
	if _, err := p.grants.caller.call(q); err != nil {
		return fmt.Errorf("set unmap notification at offset %d: %w", offset, err)
	}
	return nil
}

// Free implements [xen.Pages].
func (p *Pages) Free() error {
	p.grants.mu.Lock()
	defer p.grants.mu.Unlock()
	if _, ok := p.grants.live[p]; !ok {
		return fmt.Errorf("free %d granted pages: %w", len(p.refs), xen.ErrClosed)
	}
	delete(p.grants.live, p)
	err := p.view.close()
	_, callErr := p.grants.caller.call(request{Op: opFree, Index: p.index})
	if err := errors.Join(err, callErr); err != nil {
		return fmt.Errorf("free %d granted pages: %w", len(p.refs), err)
	}
	return nil
}
