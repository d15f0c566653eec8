package xensim

import (
	"sync"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

// firstReservedDomID is DOMID_FIRST_RESERVED of xen.h: no domain has it or a higher
// number.
const firstReservedDomID = 0x7ff0

// hypervisor has what belongs to no process: the domains with their grant tables
// and ports. One lock guards it all. The words that domains share (grant entries,
// pending bits) are atomic besides.
type hypervisor struct {
	heap       bool
	grantLimit int
	allowRaise bool

	mu      sync.Mutex
	domains map[xen.DomID]*domain   // nil: closed
	serial  uint32                  // last generation given to a port's slot, or link
	noRoom  bool                    // fault: allocations of grants fail
	renamed map[xen.DomID]xen.DomID // by restores: processes go on under their old number

	lostPortUses []string // of ports that were lost at a restore
}

// domain is created when its number is first used, and stays.
type domain struct {
	id     xen.DomID
	grants *grantTable
	ports  map[xen.Port]*port
}

// domain finds or creates id. The lock is held.
func (h *hypervisor) domain(id xen.DomID) (*domain, error) {
	if d := h.domains[id]; d != nil {
		return d, nil
	}
	if h.domains == nil {
		return nil, unix.EBADF
	}
	if id >= firstReservedDomID {
		return nil, unix.EINVAL
	}
	table, err := newGrantTable(h.heap, h.grantLimit)
	if err != nil {
		return nil, err
	}
	d := &domain{id: id, grants: table, ports: make(map[xen.Port]*port)}
	h.domains[id] = d
	return d, nil
}

// nextSerial returns a number that was not given before, never 0. The lock is held.
func (h *hypervisor) nextSerial() uint32 {
	h.serial++
	if h.serial == 0 {
		h.serial = 1
	}
	return h.serial
}

// numberOf is the number that a domain has now which was once known as dom: a
// process does not learn of a restore. The lock is held.
func (h *hypervisor) numberOf(dom xen.DomID) xen.DomID {
	for {
		now, ok := h.renamed[dom]
		if !ok {
			return dom
		}
		dom = now
	}
}

// current is numberOf without the lock.
func (h *hypervisor) current(dom xen.DomID) xen.DomID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.numberOf(dom)
}

// close frees what the domains have when all their handles are closed.
func (h *hypervisor) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.domains {
		d.grants.words.close()
	}
	h.domains = nil
}

// handle is the server's side of an open file.
type handle interface {
	// call does one hypercall. The error is a [unix.Errno] or wraps one.
	call(q request) (reply, error)
	// close ends what the handle has.
	close()
}

// open makes the handle that a first request asks for. The objects of the reply are
// the client's.
func (h *hypervisor) open(q request) (handle, error) {
	if q.Domain >= firstReservedDomID {
		return nil, unix.EINVAL
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.domain(h.numberOf(xen.DomID(q.Domain)))
	if err != nil {
		return nil, err
	}
	switch q.Op {
	case opOpenGrants:
		return &grantFile{h: h, d: d, slabs: make(map[uint64]*slab)}, nil
	case opOpenMaps:
		return &mapFile{h: h, d: d, maps: make(map[uint64]*grant)}, nil
	case opOpenEvents:
		return newEventFile(h, d)
	}
	return nil, unix.ENOSYS
}
