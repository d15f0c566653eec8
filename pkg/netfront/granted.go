package netfront

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// granted is the pages that a vif has granted to one domain. They outlast the vif's
// connections: a grant that the peer has mapped cannot be ended, its page and its entry of
// the guest's grant table stay in use, and the kernel's limit of granted pages does not
// count it any more (gnttab_end_foreign_access). A backend that has its connections end
// would use up the table, and nothing in the guest could grant any more, its disk included. So
// the next connection to the same domain has the same pages. It belongs to the Device's
// goroutine.
type granted struct {
	peer    xen.DomID
	grants  xen.Grants // where the pages are from
	adopted bool       // grants are another process's, and are closed with the pages
	limit   int        // of granted pages, when these were granted; 0: not known
	pairs   []pairGrants
	marker  string // path and value of the marker of this life of the domain, see restored
	nonce   string
	held    bool // the holder has the grants, and a state that says where the pages are
}

// pairGrants are the pages that one queue pair needs. Each is granted in one piece.
type pairGrants struct {
	rings xen.Pages // the tx ring's page, then the rx ring's
	tx    xen.Pages // read-only to the backend
	rx    xen.Pages
}

// pair has pages for pair number i, which is at most the number of those that there are: those
// of the last connection, zeroed, or new ones with so many for each direction. The last
// backend may still have the old ones mapped. It reads nothing there that it was not sent,
// and writes nothing but what any backend could.
func (g *granted) pair(i, maps int) (p pairGrants, err error) {
	if i < len(g.pairs) {
		p = g.pairs[i]
		for _, pages := range []xen.Pages{p.rings, p.tx, p.rx} {
			clear(pages.Bytes())
		}
		return p, nil
	}
	for _, x := range []struct {
		pages    *xen.Pages
		what     string
		n        int
		writable bool
	}{{&p.rings, "ring", ringPages, true}, {&p.tx, "tx", maps, false}, {&p.rx, "rx", maps, true}} {
		if *x.pages, err = g.grants.Alloc(g.peer, x.n, x.writable); err != nil {
			return pairGrants{}, fmt.Errorf("queue %d: grant %d %s pages: %w", i, x.n, x.what, errors.Join(err, p.free()))
		}
	}
	g.pairs = append(g.pairs, p)
	return p, nil
}

// remap has the pages of another process's pair.
func (g *granted) remap(r *pairRecord) (p pairGrants, err error) {
	for _, x := range []struct {
		pages  *xen.Pages
		record *slabRecord
	}{{&p.rings, &r.Rings}, {&p.tx, &r.Tx}, {&p.rx, &r.Rx}} {
		if *x.pages, err = g.grants.Remap(x.record.Index, x.record.refs()); err != nil {
			return p, err // what is mapped goes with grants
		}
	}
	if n := len(p.rings.Refs()); n != ringPages {
		return p, fmt.Errorf("%d ring pages, want %d", n, ringPages)
	}
	g.pairs = append(g.pairs, p)
	return p, nil
}

// shrink frees the pages of all pairs but the first n.
func (g *granted) shrink(n int) (err error) {
	for _, p := range g.pairs[n:] {
		err = errors.Join(err, p.free())
	}
	g.pairs = g.pairs[:n]
	return err
}

// pages is how many there are.
func (g *granted) pages() (n int) {
	for _, p := range g.pairs {
		n += len(p.rings.Refs()) + len(p.tx.Refs()) + len(p.rx.Refs())
	}
	return n
}

// reduced tells whether a pair has fewer pages than fill its rings.
func (g *granted) reduced() bool {
	return len(g.pairs) > 0 && len(g.pairs[0].tx.Refs()) < fullMaps
}

// close ends this process's use of pages that another process granted; as for its own,
// they go with it.
func (g *granted) close() error {
	if !g.adopted {
		return nil
	}
	return g.grants.Close()
}

func (p *pairGrants) free() (err error) {
	for _, pages := range []xen.Pages{p.rings, p.tx, p.rx} {
		if pages != nil {
			err = errors.Join(err, pages.Free())
		}
	}
	return err
}

// setGranted notes which pages there are.
func (d *Device) setGranted(g *granted) {
	d.granted = g
	n := 0
	if g != nil {
		n = g.pages()
	}
	d.update(func(v *view) { v.granted = n })
}

// noiseShare is what part of the pages that are given back other drivers of the guest can make
// look as if they were in use: those whose grants they take at that moment.
const noiseShare = 8

// endGranted is for the end of Run: the pages go to the next process with the state that the
// holder has, or are given back.
func (d *Device) endGranted(ctx context.Context) {
	var err error
	if g := d.granted; g != nil && g.held && leaving(ctx) {
		err = g.close()
		d.setGranted(nil)
	} else {
		err = d.ungrant("the vif is not served any more")
	}
	if err != nil {
		d.log.Warn("granted pages were not given back cleanly", problem(err), event(EventPagesLeft))
	}
}

// ungrant gives the pages back, because of what why says. Those that the peer still has
// mapped stay in use for nothing: where they are too many, the vif is off, see whyOff.
func (d *Device) ungrant(why string) error {
	g := d.granted
	if g == nil {
		return nil
	}
	n := g.pages()
	err := g.shrink(0)
	d.forget(KeyConnection)
	err = errors.Join(err, g.close())
	d.setGranted(nil)
	left, lerr := d.guest.Grants.Left()
	if lerr != nil {
		return errors.Join(err, fmt.Errorf("which pages are still in use: %w", lerr))
	}
	if left > n/noiseShare {
		d.log.Warn("pages that were given back are still in use: a backend's domain keeps them mapped",
			zap.String("because", why), zap.Int("given_back", n), zap.Int("left", left), event(EventPagesLeft))
	}
	return err
}

// regrant gives the pages back if the vif at a can have no use of them: they are another
// domain's, or of before a restore, or fewer than fill the rings where more can be had now.
func (d *Device) regrant(a address) error {
	g := d.granted
	switch {
	case g == nil:
		return nil
	case g.peer != a.domid:
		return d.ungrant("the vif has another backend")
	case restored(d.guest.Store, g.marker, g.nonce):
		return d.ungrant("the guest was restored")
	case len(g.pairs) > d.cfg.Queues:
		return g.shrink(d.cfg.Queues)
	case g.reduced():
		if limit, err := d.guest.Grants.Limit(); err == nil && limit > g.limit {
			return d.ungrant("the limit of granted pages was raised")
		}
	}
	return nil
}
