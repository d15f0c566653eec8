package xensim

import (
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

// grantFile is an open /dev/xen/gntalloc.
type grantFile struct {
	h     *hypervisor
	d     *domain
	slabs map[uint64]*slab // by index, the offset that mmap takes
	next  uint64
}

func (f *grantFile) call(q request) (reply, error) {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	if f.slabs == nil {
		return reply{}, unix.EBADF
	}
	t := f.d.grants
	switch q.Op {
	case opAlloc:
		if q.Domain >= firstReservedDomID {
			return reply{}, unix.EINVAL
		}
		s, err := f.h.alloc(f.d, xen.DomID(q.Domain), int(q.Count), q.Flags&flagWritable != 0)
		if err != nil {
			return reply{}, err
		}
		index := f.next
		f.next += uint64(pages(len(s.refs)))
		f.slabs[index] = s
		return s.describe(index)
	case opFree:
		s := f.slabs[q.Index]
		if s == nil {
			return reply{}, unix.EINVAL
		}
		delete(f.slabs, q.Index)
		f.h.end(s)
		return reply{}, nil
	case opSlab:
		s := f.slabs[q.Index]
		if s == nil || len(s.refs) != int(q.Count) {
			return reply{}, unix.EINVAL
		}
		return s.describe(q.Index)
	case opUnmapNotify:
		return reply{}, f.notifyUnmap(q)
	case opLimit:
		return reply{Values: []uint64{uint64(t.limit)}}, nil
	case opLeft:
		n := 0
		for _, g := range t.grants {
			if g.deferred {
				n++
			}
		}
		return reply{Values: []uint64{uint64(n)}}, nil
	case opRaiseLimit:
		if int(q.Count) <= t.limit {
			return reply{}, nil
		}
		if !f.h.allowRaise {
			return reply{}, unix.EPERM
		}
		t.limit = int(q.Count)
		return reply{}, nil
	}
	return reply{}, unix.ENOTTY
}

// describe is what the granter gets of a slab: it may always write.
func (s *slab) describe(index uint64) (reply, error) {
	o, err := s.pages.share(0, pages(len(s.refs)), true)
	if err != nil {
		return reply{}, err
	}
	r := reply{Values: make([]uint64, 0, 1+len(s.refs)), Objects: []object{o}}
	r.Values = append(r.Values, index)
	for _, ref := range s.refs {
		r.Values = append(r.Values, uint64(ref))
	}
	return r, nil
}

// notifyUnmap is IOCTL_GNTALLOC_SET_UNMAP_NOTIFY: a page has one notification, a
// later one replaces it. It holds the port open, as evtchn_get does.
func (f *grantFile) notifyUnmap(q request) error {
	s := f.slabs[q.Index]
	if s == nil || uint64(q.Offset) >= uint64(pages(len(s.refs))) || q.Flags&^(flagClearByte|flagSendEvent) != 0 {
		return unix.EINVAL
	}
	w := unmapNotify{offset: -1, page: int(q.Offset) / xen.PageSize}
	if q.Flags&flagSendEvent != 0 {
		p := f.d.ports[xen.Port(q.Number)]
		if p == nil {
			return unix.EINVAL
		}
		p.holds++
		w.port = p
	}
	if q.Flags&flagClearByte != 0 {
		w.offset = int(q.Offset)
	}
	for i, old := range s.watch {
		if old.page == w.page {
			if old.port != nil {
				f.h.drop(old.port)
			}
			s.watch = append(s.watch[:i], s.watch[i+1:]...)
			break
		}
	}
	if q.Flags != 0 {
		s.watch = append(s.watch, w)
	}
	return nil
}

func (f *grantFile) close() {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	for _, s := range f.slabs {
		f.h.end(s)
	}
	f.slabs = nil
}

// mapFile is an open /dev/xen/gntdev.
type mapFile struct {
	h    *hypervisor
	d    *domain
	maps map[uint64]*grant
	next uint64
}

func (f *mapFile) call(q request) (reply, error) {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	if f.maps == nil {
		return reply{}, unix.EBADF
	}
	switch q.Op {
	case opMap:
		if q.Domain >= firstReservedDomID {
			return reply{}, unix.EINVAL
		}
		writable := q.Flags&flagWritable != 0
		g, err := f.h.lookup(f.d, xen.DomID(q.Domain), xen.GrantRef(q.Number), writable)
		if err != nil {
			return reply{}, err
		}
		o, err := g.slab.pages.share(pages(g.page), xen.PageSize, writable)
		if err != nil {
			return reply{}, err
		}
		entry := word(g.slab.d.grants.words.mem, int(g.ref)).Load()
		id := uint64(0)
		if q.Flags&flagCopy == 0 {
			f.next++
			id = f.next
			f.maps[id] = g
			g.mapped++
		}
		return reply{Values: []uint64{id, entry}, Objects: []object{o}}, nil
	case opUnmap:
		g := f.maps[q.Index]
		if g == nil {
			return reply{}, unix.EINVAL
		}
		delete(f.maps, q.Index)
		g.unmap()
		return reply{}, nil
	case opTable:
		granter := f.h.domains[xen.DomID(q.Domain)]
		if granter == nil || q.Domain >= firstReservedDomID {
			return reply{}, unix.ESRCH
		}
		o, err := granter.grants.words.share(0, maxGrants*8, false)
		if err != nil {
			return reply{}, err
		}
		return reply{Objects: []object{o}}, nil
	}
	return reply{}, unix.ENOTTY
}

// unmap ends one mapping. The last one of a page that its granter has ended frees
// the page.
func (g *grant) unmap() {
	g.mapped--
	if g.mapped == 0 && g.deferred && !g.slab.lost {
		g.slab.d.grants.release(g)
	}
}

func (f *mapFile) close() {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	for _, g := range f.maps {
		g.unmap()
	}
	f.maps = nil
}
