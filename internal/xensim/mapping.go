package xensim

import (
	"fmt"
	"sync/atomic"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

// GrantTable is another domain's grant table, for reading. Any goroutine may.
type GrantTable struct {
	view view
	refs atomic.Int32 // the connection and each Mapping
}

// Entry is the entry of ref at this moment, 0 if the domain grants nothing by that
// reference. It is one atomic load. A reference that is no index of the table has
// the entry 0 too: references come from the other domain.
func (t *GrantTable) Entry(ref xen.GrantRef) Entry {
	if ref >= maxGrants {
		return 0
	}
	return Entry(word(t.view.mem, int(ref)).Load())
}

func (t *GrantTable) drop() error {
	if t.refs.Add(-1) > 0 {
		return nil
	}
	return t.view.close()
}

// GrantTable returns the table of domain from. It must not be used after the
// connection's Close. It fails with [unix.ESRCH] if there is no such domain.
func (c *Connection) GrantTable(from xen.DomID) (*GrantTable, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, err := c.table(from)
	if err != nil {
		return nil, fmt.Errorf("map grant table of domain %d: %w", from, err)
	}
	return t, nil
}

// table finds or maps a table. The lock is held.
func (c *Connection) table(from xen.DomID) (*GrantTable, error) {
	if c.tables == nil {
		return nil, xen.ErrClosed
	}
	if t := c.tables[from]; t != nil {
		return t, nil
	}
	r, err := c.maps.call(request{Op: opTable, Domain: uint32(from)})
	if err != nil {
		return nil, err
	}
	if len(r.Objects) != 1 {
		r.close()
		return nil, unix.EPROTO
	}
	t := new(GrantTable)
	if t.view, err = r.Objects[0].open(); err != nil {
		return nil, err
	}
	t.refs.Store(1)
	c.tables[from] = t
	return t, nil
}

// Live tells whether domain from grants ref to this domain at this moment. A backend
// that keeps mappings asks [Mapping.Live] instead, which also tells a reference that
// was given out again.
func (c *Connection) Live(from xen.DomID, ref xen.GrantRef) bool {
	t, err := c.GrantTable(from)
	if err != nil {
		return false
	}
	return t.Entry(ref).Permits(c.dom, false)
}

// Mapping is another domain's granted page in this one's memory.
type Mapping struct {
	c     *Connection
	table *GrantTable
	view  view
	id    uint64 // 0: for copies
	ref   xen.GrantRef
	entry Entry // when it was mapped
}

// MapGrant maps the page that domain from granted as ref (GNTTABOP_map_grant_ref).
// The granter cannot reuse the page before Unmap: if it frees it, it is deferred.
//
// It fails with [unix.ENOENT] for a reference that grants nothing, and with
// [fs.ErrPermission] if it is granted to another domain, or read-only and writable
// is asked for. Without writable, writing to the page is a fault.
func (c *Connection) MapGrant(from xen.DomID, ref xen.GrantRef, writable bool) (*Mapping, error) {
	return c.mapGrant(from, ref, writable, 0)
}

// MapForCopy maps a page as MapGrant does, for grant copies (GNTTABOP_copy): it does
// not hold the page, so the granter may free it at any time. So [Mapping.Live] must
// be asked before each copy, and the copy fails as Xen's would when it says no. What
// a mapping that is not live shows is what the page last held.
func (c *Connection) MapForCopy(from xen.DomID, ref xen.GrantRef, writable bool) (*Mapping, error) {
	return c.mapGrant(from, ref, writable, flagCopy)
}

func (c *Connection) mapGrant(from xen.DomID, ref xen.GrantRef, writable bool, flags uint32) (*Mapping, error) {
	m, err := c.newMapping(from, ref, writable, flags)
	if err != nil {
		return nil, fmt.Errorf("map grant %d of domain %d: %w", ref, from, err)
	}
	return m, nil
}

func (c *Connection) newMapping(from xen.DomID, ref xen.GrantRef, writable bool, flags uint32) (*Mapping, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, err := c.table(from)
	if err != nil {
		return nil, err
	}
	if writable {
		flags |= flagWritable
	}
	r, err := c.maps.call(request{Op: opMap, Domain: uint32(from), Number: uint32(ref), Flags: flags})
	if err != nil {
		return nil, err
	}
	if len(r.Objects) != 1 || len(r.Values) != 2 {
		r.close()
		return nil, unix.EPROTO
	}
	m := &Mapping{c: c, table: t, id: r.Values[0], ref: ref, entry: Entry(r.Values[1])}
	if m.view, err = r.Objects[0].open(); err != nil {
		m.end()
		return nil, err
	}
	t.refs.Add(1)
	return m, nil
}

// Bytes is the page. Its granter may change it at any time.
func (m *Mapping) Bytes() []byte { return m.view.mem }

// Live tells, by one atomic load, whether the page is still granted by the reference
// by which it was mapped. While a MapGrant stands it always is.
func (m *Mapping) Live() bool { return m.table.Entry(m.ref) == m.entry }

// Unmap ends the mapping. Bytes must not be touched after it. Only the goroutine
// that owns the mapping may call it, once.
func (m *Mapping) Unmap() error {
	if m.table == nil {
		return fmt.Errorf("unmap grant %d: %w", m.ref, xen.ErrClosed)
	}
	err := m.view.close()
	if dropErr := m.table.drop(); err == nil {
		err = dropErr
	}
	m.table = nil
	if endErr := m.end(); err == nil {
		err = endErr
	}
	if err != nil {
		return fmt.Errorf("unmap grant %d: %w", m.ref, err)
	}
	return nil
}

// end tells the server. After the connection's Close it has been ended already.
func (m *Mapping) end() error {
	if m.id == 0 {
		return nil
	}
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if m.c.tables == nil {
		return nil
	}
	_, err := m.c.maps.call(request{Op: opUnmap, Index: m.id})
	return err
}
