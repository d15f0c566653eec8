package xensim

import (
	"cmp"
	"maps"
	"slices"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// GrantEntry is a grant reference that is in use.
type GrantEntry struct {
	Ref      xen.GrantRef
	Peer     xen.DomID // who may use the page
	ReadOnly bool
	Mapped   int  // how often the peer has it mapped
	Deferred bool // the granter has freed it; it ends when the peer unmaps it
}

// GrantsInUse lists what dom grants, by reference. It is empty when dom has leaked
// nothing and its peers have unmapped everything.
func (s *Server) GrantsInUse(dom xen.DomID) []GrantEntry {
	h := s.hypervisor
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[dom]
	if d == nil {
		return nil
	}
	var list []GrantEntry
	for _, g := range d.grants.grants {
		list = append(list, GrantEntry{
			Ref: g.ref, Peer: g.slab.peer, ReadOnly: g.slab.ro, Mapped: g.mapped, Deferred: g.deferred,
		})
	}
	slices.SortFunc(list, func(a, b GrantEntry) int { return cmp.Compare(a.Ref, b.Ref) })
	return list
}

// PortEntry is a port that is in use.
type PortEntry struct {
	Port       xen.Port
	Remote     xen.DomID // who is at the other end, or may bind it
	Bound      bool      // there is an other end
	RemotePort xen.Port  // if Bound
	Pending    bool
	Masked     bool
	Held       int // unmap notifications that keep it
}

// PortsInUse lists the ports of dom, by number.
func (s *Server) PortsInUse(dom xen.DomID) []PortEntry {
	h := s.hypervisor
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[dom]
	if d == nil {
		return nil
	}
	var list []PortEntry
	for _, number := range slices.Sorted(maps.Keys(d.ports)) {
		p := d.ports[number]
		e := PortEntry{Port: number, Remote: p.remote, Held: p.holds}
		if p.peer != nil {
			e.Bound, e.RemotePort = true, p.peer.number
		}
		if p.file != nil {
			state := p.state().Load()
			e.Pending, e.Masked = state&slotPending != 0, state&slotMasked != 0
		}
		list = append(list, e)
	}
	return list
}
