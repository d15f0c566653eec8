package xensim

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// opener opens a handle. A handle of xenstore has no caller, but an object.
type opener func(q request) (caller, reply, error)

// Connection is a process of one domain: what it opened of xenstore, grants, mapped
// grants and event channels. Its methods may be called by any goroutine.
type Connection struct {
	dom    xen.DomID
	open   opener
	store  *xenstore.Client
	grants *Grants
	maps   caller

	mu     sync.Mutex
	tables map[xen.DomID]*GrantTable
	files  map[*EventFile]struct{} // nil: closed
}

// Dial joins a process of dom to the server that listens in dir, which may be in
// another process. Dom need not be known to the server.
func Dial(dir string, dom xen.DomID) (*Connection, error) {
	return newConnection(dom, func(q request) (caller, reply, error) {
		conn, r, err := openSocket(dir, q)
		if err != nil {
			return nil, reply{}, err
		}
		if q.Op == opOpenStore {
			conn.Close()
			return nil, r, nil
		}
		return &socketCaller{conn: conn}, r, nil
	})
}

func newConnection(dom xen.DomID, open opener) (*Connection, error) {
	c := &Connection{
		dom:    dom,
		open:   open,
		tables: make(map[xen.DomID]*GrantTable),
		files:  make(map[*EventFile]struct{}),
	}
	if err := c.init(); err != nil {
		return nil, errors.Join(fmt.Errorf("connect domain %d: %w", dom, err), c.Close())
	}
	return c, nil
}

func (c *Connection) init() error {
	grants, _, err := c.open(request{Op: opOpenGrants, Domain: uint32(c.dom)})
	if err != nil {
		return fmt.Errorf("open grants: %w", err)
	}
	c.grants = newGrants(grants)
	if c.maps, _, err = c.open(request{Op: opOpenMaps, Domain: uint32(c.dom)}); err != nil {
		return fmt.Errorf("open mappings: %w", err)
	}
	if c.store, err = xenstore.Connect(c.openStore); err != nil {
		return fmt.Errorf("open xenstore: %w", err)
	}
	return nil
}

// openStore opens xenstore once more, as a process opens /dev/xen/xenbus.
func (c *Connection) openStore() (io.ReadWriteCloser, error) {
	_, r, err := c.open(request{Op: opOpenStore, Domain: uint32(c.dom)})
	if err != nil {
		return nil, err
	}
	if len(r.Objects) != 1 {
		r.close()
		return nil, errors.New("no socket in the reply")
	}
	return adoptSocket(r.Objects[0].fd)
}

// Domain is the domain whose process this is.
func (c *Connection) Domain() xen.DomID { return c.dom }

// Guest is the connection as frontends see it. Closing the Guest closes its grants
// and its store; Close of the connection does both.
func (c *Connection) Guest() *xen.Guest {
	return &xen.Guest{Store: c.store, Grants: c.grants, Events: events{c}}
}

// Store is the domain's xenstore.
func (c *Connection) Store() xen.Store { return c.store }

// Grants is the domain's open gntalloc.
func (c *Connection) Grants() *Grants { return c.grants }

// events is [xen.Events] on a connection.
type events struct{ c *Connection }

func (e events) Open() (xen.EventFile, error) {
	f, err := e.c.OpenEvents()
	if err != nil {
		return nil, err // not a nil *EventFile in an interface
	}
	return f, nil
}

func (e events) Adopt(fd int) (xen.EventFile, error) {
	f, err := AdoptEventFile(fd)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// OpenEvents opens event channels (/dev/xen/evtchn).
func (c *Connection) OpenEvents() (*EventFile, error) {
	call, _, err := c.open(request{Op: opOpenEvents, Domain: uint32(c.dom)})
	if err != nil {
		return nil, fmt.Errorf("open event channels: %w", err)
	}
	f, err := newClientEvents(call)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil {
		return nil, errors.Join(fmt.Errorf("open event channels: %w", xen.ErrClosed), f.Close())
	}
	c.files[f] = struct{}{}
	f.forget = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.files, f)
	}
	return f, nil
}

// Close ends all that the connection has at the server, as the end of its process
// would: grants, mappings, ports, watches and transactions. Memory of mappings and
// EventFiles stays mapped, and an EventFile's descriptor open, until their owners,
// who may be using them, close them. Pages of grants are unmapped.
func (c *Connection) Close() error {
	c.mu.Lock()
	files, tables := c.files, c.tables
	c.files, c.tables = nil, nil
	c.mu.Unlock()
	var errs []error
	if c.store != nil {
		errs = append(errs, c.store.Close())
	}
	for f := range files {
		errs = append(errs, f.caller.close())
	}
	if c.grants != nil {
		errs = append(errs, c.grants.Close())
	}
	if c.maps != nil {
		errs = append(errs, c.maps.close())
	}
	for _, t := range tables {
		errs = append(errs, t.drop())
	}
	return errors.Join(errs...)
}
