package netback

import (
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// Domain is what the backend has of the hypervisor, as the domain that it is in: the
// embedded Xen, or what Linux gives a process of a real one (package backdev).
type Domain interface {
	// ID is the backend's own domain.
	ID() xen.DomID
	Store() xen.Store
	// MapGrant maps the page that domain from granted as ref, until Unmap. It fails with
	// [unix.ENOENT] for a reference that grants nothing, and with [fs.ErrPermission] if it is
	// granted to another domain, or read-only and writable is asked for.
	MapGrant(from xen.DomID, ref xen.GrantRef, writable bool) (Page, error)
	// MapForCopy is MapGrant for pages that are copied from or to at times: [Page.Live] is
	// asked before each copy.
	MapForCopy(from xen.DomID, ref xen.GrantRef, writable bool) (Page, error)
	OpenEvents() (Events, error)
}

// Page is a granted page of another domain. One goroutine owns it.
type Page interface {
	// Bytes are its [xen.PageSize] bytes. The domain that granted it may change them at any
	// time. They must not be touched after Unmap.
	Bytes() []byte
	// Live tells whether the page is still granted as it was when it was mapped.
	Live() bool
	Unmap() error
}

// Events are event channels of one worker.
type Events interface {
	xen.EventFile
	// BindInterdomain joins a new port to one that remote has bound for this domain
	// (EVTCHNOP_bind_interdomain).
	BindInterdomain(remote xen.DomID, port xen.Port) (xen.Port, error)
}

// Embedded is a domain of the embedded Xen. The connection stays the caller's.
func Embedded(conn *xensim.Connection) Domain { return embedded{conn} }

type embedded struct{ conn *xensim.Connection }

func (d embedded) ID() xen.DomID    { return d.conn.Domain() }
func (d embedded) Store() xen.Store { return d.conn.Store() }

func (d embedded) MapGrant(from xen.DomID, ref xen.GrantRef, writable bool) (Page, error) {
	m, err := d.conn.MapGrant(from, ref, writable)
	if err != nil {
		return nil, err // not a nil *Mapping in an interface
	}
	return m, nil
}

func (d embedded) MapForCopy(from xen.DomID, ref xen.GrantRef, writable bool) (Page, error) {
	m, err := d.conn.MapForCopy(from, ref, writable)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (d embedded) OpenEvents() (Events, error) {
	f, err := d.conn.OpenEvents()
	if err != nil {
		return nil, err
	}
	return f, nil
}
