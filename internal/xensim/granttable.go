package xensim

import (
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

const (
	// firstGrant is the lowest reference that is given out: Linux reserves 8
	// (GNTTAB_NR_RESERVED_ENTRIES).
	firstGrant = 8
	// maxGrants is the length of a grant table: 64 frames of 512 entries, Xen's
	// default (gnttab_max_frames).
	maxGrants = 64 * 512
	// maxAlloc bounds one allocation, so that its references fit one message.
	maxAlloc = 8192
	// defaultGrantLimit is gntalloc's.
	defaultGrantLimit = 1024
)

// Entry is one word of a grant table, which the server writes and backends read:
//
//	bit 0       permit: the peer may use the page
//	bit 1       read-only
//	bits 16-31  the peer's domid
//	bits 32-63  generation, another each time the reference is given out
type Entry uint64

const (
	entryPermit   = 1 << 0
	entryReadOnly = 1 << 1
)

func makeEntry(peer xen.DomID, writable bool, generation uint32) Entry {
	e := entryPermit | Entry(peer)<<16 | Entry(generation)<<32
	if !writable {
		e |= entryReadOnly
	}
	return e
}

// Permits tells whether dom may use the page, and write it if that is asked for.
func (e Entry) Permits(dom xen.DomID, writable bool) bool {
	return e&entryPermit != 0 && xen.DomID(e>>16) == dom && !(writable && e&entryReadOnly != 0)
}

// grantTable is one domain's. The hypervisor's lock guards it.
type grantTable struct {
	words  *region // maxGrants entries, for backends to read
	grants map[xen.GrantRef]*grant
	free   []xen.GrantRef // given back, last in first out as in Linux
	next   xen.GrantRef   // lowest that was never given out
	limit  int            // gntalloc's limit
	used   int            // pages that count towards it: deferred ones do not
}

// grant is a reference that is in use.
type grant struct {
	ref      xen.GrantRef
	slab     *slab
	page     int // in the slab
	mapped   int // how often the peer has it mapped
	deferred bool
}

// slab is the pages of one allocation.
type slab struct {
	pages *region
	d     *domain
	peer  xen.DomID
	ro    bool
	lost  bool // at a restore: granted to nobody
	refs  []xen.GrantRef
	left  int // pages that are not yet free
	watch []unmapNotify
}

// unmapNotify is what happens when a page's last mapping in the granter goes.
type unmapNotify struct {
	offset int // in the slab; -1: clear nothing
	page   int
	port   *port // nil: send nothing
}

func newGrantTable(heap bool, limit int) (*grantTable, error) {
	words, err := newRegion("xen-grant-table", maxGrants*8, heap)
	if err != nil {
		return nil, err
	}
	return &grantTable{words: words, grants: make(map[xen.GrantRef]*grant), next: firstGrant, limit: limit}, nil
}

// alloc grants a new slab of n pages.
func (h *hypervisor) alloc(d *domain, peer xen.DomID, n int, writable bool) (*slab, error) {
	t := d.grants
	if n <= 0 || n > maxAlloc || peer >= firstReservedDomID {
		return nil, unix.EINVAL
	}
	if h.noRoom || t.used+n > t.limit || len(t.free)+maxGrants-int(t.next) < n {
		return nil, unix.ENOSPC
	}
	mem, err := newRegion("xen-granted-pages", pages(n), h.heap)
	if err != nil {
		return nil, err
	}
	s := &slab{pages: mem, d: d, peer: peer, ro: !writable, refs: make([]xen.GrantRef, n), left: n}
	generation := h.nextSerial()
	for i := range s.refs {
		ref := t.take()
		s.refs[i] = ref
		t.grants[ref] = &grant{ref: ref, slab: s, page: i}
		word(t.words.mem, int(ref)).Store(uint64(makeEntry(peer, writable, generation)))
	}
	t.used += n
	return s, nil
}

func (t *grantTable) take() xen.GrantRef {
	if n := len(t.free); n > 0 {
		ref := t.free[n-1]
		t.free = t.free[:n-1]
		return ref
	}
	t.next++
	return t.next - 1
}

// end ends the use of a slab by its granter. Pages that the peer has mapped remain
// granted until it unmaps them, as gnttab_end_foreign_access defers them; gntalloc
// no longer counts them.
func (h *hypervisor) end(s *slab) {
	for _, w := range s.watch {
		h.tellUnmap(s, w)
	}
	s.watch = nil
	t := s.d.grants
	t.used -= len(s.refs)
	// Backwards, so that the next slab gets them in ascending order.
	for i := len(s.refs) - 1; i >= 0; i-- {
		g := t.grants[s.refs[i]]
		g.deferred = true
		if g.mapped == 0 || s.lost {
			t.release(g)
		}
	}
}

// release makes a reference free, and the slab's memory with its last one.
func (t *grantTable) release(g *grant) {
	word(t.words.mem, int(g.ref)).Store(0)
	delete(t.grants, g.ref)
	t.free = append(t.free, g.ref)
	g.slab.left--
	if g.slab.left == 0 {
		g.slab.pages.close()
	}
}

func (h *hypervisor) tellUnmap(s *slab, w unmapNotify) {
	if w.offset >= 0 {
		s.pages.mem[w.offset] = 0
	}
	if w.port != nil {
		w.port.notify()
		h.drop(w.port)
	}
}

// lookup finds the grant that d may use, as Xen checks it for a map or a copy: the
// entry must permit d, and writing if it is asked for.
func (h *hypervisor) lookup(d *domain, from xen.DomID, ref xen.GrantRef, writable bool) (*grant, error) {
	granter := h.domains[from]
	if granter == nil {
		return nil, unix.ESRCH // GNTST_bad_domain
	}
	g := granter.grants.grants[ref]
	if g == nil || g.slab.lost {
		return nil, unix.ENOENT // GNTST_bad_gntref
	}
	if g.slab.peer != d.id || writable && g.slab.ro {
		return nil, unix.EACCES // GNTST_general_error
	}
	return g, nil
}
