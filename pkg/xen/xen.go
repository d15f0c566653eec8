// Package xen is what a guest needs of the hypervisor, as three interfaces: the
// store in which frontend and backend find each other ([Store]), pages granted to
// another domain ([Grants]) and event channels ([Events]).
//
// [Open] gives their Linux devices (/dev/xen/xenbus, /dev/xen/gntalloc and
// /dev/xen/evtchn). Everything above this package works on the interfaces alone,
// so that the same frontend runs on an embedded Xen.
//
// From version 1.0.0 of the module on, [Guest], [Open] and the use of the interfaces follow Go's rules
// of compatibility. An interface can get another method with a minor version: a program that
// implements one must be ready for that.
package xen

import (
	"context"
	"errors"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// PageSize is the size of a granted page in bytes (XEN_PAGE_SIZE). It is 4096 on
// every architecture, whatever the guest kernel's own page size is.
const PageSize = 4096

// DomID is a domain's number (domid_t of xen/include/public/xen.h).
type DomID uint16

// GrantRef is the index of an entry in this domain's grant table (grant_ref_t).
type GrantRef uint32

// Port is the local end of an event channel (evtchn_port_t).
type Port uint32

// Errors of [Grants] and [Events]. They are wrapped with what failed.
var (
	// ErrGrantLimit says that the guest's limit of granted pages is reached
	// (gntalloc's ENOSPC). The limit is the whole guest's, not this process's.
	ErrGrantLimit = errors.New("the guest's limit of granted pages is reached")
	// ErrNotBound says that a port is not bound through this EventFile.
	ErrNotBound = errors.New("port not bound here")
	// ErrClosed says that the handle was closed.
	ErrClosed = errors.New("closed")
)

// Guest is one domain's view of the hypervisor.
type Guest struct {
	Store  Store
	Grants Grants
	Events Events
}

// Close closes the three in the order in which a dying process would: event
// channels are per EventFile and closed by their owners.
func (g *Guest) Close() error {
	return errors.Join(g.Grants.Close(), g.Store.Close())
}

// Store is xenstore, the small tree of strings which all domains share. Paths that
// do not begin with a slash are relative to the domain's own home,
// /local/domain/<domid>. All methods may be called by any goroutine; each blocks
// until xenstored has answered or ctx ends.
//
// [xenstore.Client] implements it, and documents the errors, which are those of
// xs_wire ([xenstore.ErrNotFound], [xenstore.ErrPermission], ...).
type Store interface {
	xenstore.Operations
	// Update runs f in a transaction and commits it. When the commit meets a
	// conflict (EAGAIN) f runs again on a new transaction, so it must have no other
	// effect than its operations. An error of f aborts the transaction and is
	// returned as it is.
	Update(ctx context.Context, f func(tx xenstore.Operations) error) error
	// Watch reports changes of path and of everything below it, beginning with one
	// report at once. The caller closes it.
	Watch(ctx context.Context, path string) (*xenstore.Watch, error)
	Close() error
}

// Grants makes pages that another domain may map. A userspace process cannot grant
// memory of its own: the kernel allocates the pages (gntalloc), and a page's peer
// and mode are fixed for its life. All methods may be called by any goroutine.
type Grants interface {
	// Alloc allocates n zeroed pages, granted to peer, in one contiguous mapping.
	// Writable says whether peer may write them; this side always may. It fails
	// with [ErrGrantLimit] when the guest's limit is reached.
	Alloc(peer DomID, n int, writable bool) (Pages, error)
	// Limit returns how many pages the whole guest may have granted through this
	// interface at once. How many are in use cannot be known.
	Limit() (int, error)
	// RaiseLimit makes the limit at least n pages. It fails with fs.ErrPermission
	// where that is not allowed.
	RaiseLimit(n int) error
	// Left returns how many of the pages that were freed through this, and what was
	// adopted by it, are still in use for nothing: their peer has them mapped, so that
	// their grants cannot be ended. It may be too many, and is never too few.
	Left() (int, error)
	// Handle returns a duplicate of the descriptor behind it, which the caller owns.
	// What was allocated stands as long as any process has one.
	Handle() (fd int, err error)
	// Adopt makes Grants of a descriptor that Handle returned in another process, and
	// takes it over when it succeeds. Remap finds the pages.
	Adopt(fd int) (Grants, error)
	// Remap maps pages again that another process allocated through this descriptor:
	// index is their [Pages].Index, refs are their grants.
	Remap(index uint64, refs []GrantRef) (Pages, error)
	// Close unmaps everything that was allocated and not freed, and ends the grants
	// unless another process has the descriptor too.
	Close() error
}

// Pages are n granted pages in one mapping. They live and end together.
type Pages interface {
	// Bytes is the mapping, n × PageSize bytes. The peer may read it at any time,
	// and write it at any time if it was allocated writable. It must not be touched
	// after Free.
	Bytes() []byte
	// Refs has one grant reference for each page, in the order of the mapping. The
	// caller must not change it.
	Refs() []GrantRef
	// Index finds the pages in their open descriptor, from another process too.
	Index() uint64
	// NotifyUnmap asks the kernel to clear the byte at offset of Bytes, and to send
	// an event on port, when the last mapping of that byte's page in this domain
	// goes: a sign of life's end that even SIGKILL gives. clear or port may be left
	// out (false, 0).
	NotifyUnmap(offset int, clear bool, port Port) error
	// Free unmaps the pages and ends their grants. A page that the peer still has
	// mapped stays out of use, in the kernel's hands, until the peer unmaps it.
	Free() error
}

// Events opens handles for event channels.
type Events interface {
	// Open returns a handle of its own port set. Each goroutine that waits for
	// events has one of its own, so that nothing is shared.
	Open() (EventFile, error)
	// Adopt takes over a descriptor that [EventFile].Handle returned in another
	// process. A port that was delivered there and not unmasked is masked still, so
	// the caller unmasks each of its ports once.
	Adopt(fd int) (EventFile, error)
}

// EventFile is a set of event-channel ports and a descriptor that is readable while
// one of them is pending. It is owned by one goroutine at a time, except that Notify
// may be called by any.
type EventFile interface {
	// FD is the descriptor to wait on (POLLIN). It is non-blocking, and owned by
	// the EventFile. Linux wakes who waits for it when a port is raised and no other
	// waits to be read, and only then (evtchn_interrupt): who waits for edges reads
	// until there are no ports.
	FD() int
	// Bind allocates a port that remote may bind to (EVTCHNOP_alloc_unbound).
	Bind(remote DomID) (Port, error)
	// Notify raises an event at the other end of port.
	Notify(port Port) error
	// Read takes the ports that are pending, without blocking, and returns how many
	// it put into ports; 0 means none. A port that was returned is masked: it is
	// not reported again until Unmask (the kernel's late EOI).
	Read(ports []Port) (int, error)
	// Unmask lets port be reported again. An event that came in between is
	// reported at once.
	Unmask(port Port) error
	// Unbind closes port.
	Unbind(port Port) error
	// Handle returns a duplicate of the descriptor, which the caller owns. The ports
	// live as long as any process has one.
	Handle() (fd int, err error)
	// Close closes the descriptor, and all its ports unless another process has the
	// descriptor too. It must not be the last to close it after the guest was saved
	// and restored: the ports are dead then, and Linux cannot release them
	// (docs/kernel-bugs).
	Close() error
}
