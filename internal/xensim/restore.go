package xensim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
	"golang.org/x/sys/unix"
)

// lostLink is the link of a port that was lost at a restore: it makes Notify ask the
// server, who takes it down.
const lostLink = ^uint64(0)

// Restore does to a domain what xl save and restore, or a migration, does: its
// processes go on and know of nothing, but it has the number as, which may be the
// old one; its event channels and grants are gone; and its directories in xenstore
// are new ones, with vifs as its network devices (their Frontend is set to as). The
// domain sees xenstore only before and after.
//
// Port numbers are given out again, so that nothing may be done with the old EventFiles
// but to keep them. [Server.LostPortUses] lists what was done to them all the same.
// Pages stay what they are and can be freed, but are granted to nobody.
func (s *Server) Restore(ctx context.Context, dom, as xen.DomID, vifs ...VifConfig) error {
	if dom == 0 || as == 0 {
		return errors.New("restore domain 0: it cannot be")
	}
	for _, d := range []xen.DomID{dom, as} {
		s.store.Pause(uint16(d), true)
		defer s.store.Pause(uint16(d), false)
	}
	err := s.hypervisor.restore(dom, as)
	if err == nil {
		s.store.Rename(uint16(dom), uint16(as))
		err = s.replaceHome(ctx, dom, as)
	}
	for i := 0; err == nil && i < len(vifs); i++ {
		vifs[i].Frontend = as
		err = AttachVif(ctx, s.toolstack, vifs[i])
	}
	if err != nil {
		return fmt.Errorf("restore domain %d as %d: %w", dom, as, err)
	}
	return nil
}

// replaceHome removes what the store has of dom, and makes a home for as.
func (s *Server) replaceHome(ctx context.Context, dom, as xen.DomID) error {
	records := fmt.Sprintf("/libxl/%d/device/vif", dom)
	err := s.toolstack.Update(ctx, func(tx xenstore.Operations) error {
		list, err := tx.Directory(ctx, records)
		if err != nil && !errors.Is(err, xenstore.ErrNotFound) {
			return err
		}
		for _, name := range list {
			record := records + "/" + name
			back, err := tx.Read(ctx, record+"/backend")
			if err == nil {
				err = errors.Join(cleanUp(ctx, tx, back), cleanUp(ctx, tx, record))
			}
			if err != nil {
				return err
			}
		}
		return tx.Remove(ctx, HomePath(dom))
	})
	if err != nil {
		return err
	}
	return CreateDomain(ctx, s.toolstack, as)
}

// restore is the hypervisor's part.
func (h *hypervisor) restore(dom, as xen.DomID) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[dom]
	switch {
	case d == nil:
		return unix.ESRCH
	case as >= firstReservedDomID:
		return unix.EINVAL
	case as != dom && h.domains[as] != nil:
		return unix.EEXIST
	}
	for _, p := range d.ports {
		p.lost = true
		h.remove(p)
		p.setLink(lostLink)
	}
	for _, g := range d.grants.grants {
		g.slab.lost = true
		word(d.grants.words.mem, int(g.ref)).Store(0)
		if g.deferred {
			d.grants.release(g)
		}
	}
	if as != dom {
		delete(h.domains, dom)
		d.id = as
		h.domains[as] = d
		h.renamed[dom] = as
	}
	return nil
}

// lostPortUse takes down that a port was used that was lost at a restore.
func (h *hypervisor) lostPortUse(what string, p *port) {
	h.lostPortUses = append(h.lostPortUses, fmt.Sprintf("domain %d: %s port %d, which was lost at a restore", p.d.id, what, p.number))
}

// LostPortUses lists what processes did with ports that were lost at a [Server.Restore]
// and must only be kept. That the last process which has them ends is such a thing too.
func (s *Server) LostPortUses() []string {
	s.hypervisor.mu.Lock()
	defer s.hypervisor.mu.Unlock()
	return slices.Clone(s.hypervisor.lostPortUses)
}
