//go:build linux

package xen

import (
	"errors"
	"sync"
)

// leftBehind is the grants that were given back, and may be in use still: those that the
// peer has mapped cannot be ended (gnttab_try_end_foreign_access), and are put off until it
// lets go. The driver says nothing of that, and does not count them.
//
// It shows all the same. A grant that was ended is the next one to be given out: the free list
// is last in, first out (put_free_entry_locked, get_free_entries of
// drivers/xen/grant-table.c). So a reference that comes back with new pages has been ended,
// and one that does not, when as many were asked for as were given back, is in use: still, or
// again, by another driver of the guest's. All
// [Gntalloc] of a process have the same one.
type leftBehind struct {
	mu   sync.Mutex
	refs map[GrantRef]struct{}
}

func (l *leftBehind) add(refs []GrantRef) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refs == nil {
		l.refs = make(map[GrantRef]struct{})
	}
	for _, r := range refs {
		l.refs[r] = struct{}{}
	}
}

// found notes references that were given out anew.
func (l *leftBehind) found(refs []GrantRef) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range refs {
		delete(l.refs, r)
	}
}

func (l *leftBehind) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.refs)
}

// nobody is a domain that there is not (DOMID_INVALID of xen.h): what is granted to it
// nobody can map.
const nobody DomID = 0x7ff4

// maxProbe bounds the pages that the guest's kernel allocates to find out.
const maxProbe = 2048

// probe asks for so many pages, to see which references come, and gives them back. It runs
// with the lock held.
func (g *Gntalloc) probe(n int) error {
	index, _, err := g.request(nobody, n, false)
	if err != nil {
		return err
	}
	return g.dealloc(index, n)
}

// Left implements [Grants].
func (g *Gntalloc) Left() (int, error) {
	n := g.left.len()
	if n == 0 {
		return 0, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fd < 0 {
		return n, nil
	}
	// They may have been ended since. The guest may not be able to grant so many now.
	for n = min(n, maxProbe); n > 0; n /= 2 {
		err := g.probe(n)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrGrantLimit) {
			return g.left.len(), err
		}
	}
	return g.left.len(), nil
}
