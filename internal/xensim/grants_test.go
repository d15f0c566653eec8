package xensim

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

// bothMemories runs a test on memfds and on heap pages.
func bothMemories(t *testing.T, f func(t *testing.T, opts Options)) {
	t.Run("memfd", func(t *testing.T) { f(t, Options{}) })
	t.Run("heap", func(t *testing.T) { f(t, Options{HeapPages: true}) })
}

func newServer(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func connect(t *testing.T, s *Server, dom xen.DomID) *Connection {
	t.Helper()
	c, err := s.Connect(dom)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func alloc(t *testing.T, c *Connection, peer xen.DomID, n int, writable bool) *Pages {
	t.Helper()
	p, err := c.Grants().Alloc(peer, n, writable)
	if err != nil {
		t.Fatal(err)
	}
	return p.(*Pages)
}

func mapGrant(t *testing.T, c *Connection, from xen.DomID, ref xen.GrantRef, writable bool) *Mapping {
	t.Helper()
	m, err := c.MapGrant(from, ref, writable)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestGrantedPageIsTheSameMemoryOnBothSides(t *testing.T) {
	bothMemories(t, func(t *testing.T, opts Options) {
		s := newServer(t, opts)
		front, back := connect(t, s, 1), connect(t, s, 0)
		p := alloc(t, front, 0, 3, true)
		if len(p.Bytes()) != 3*xen.PageSize || p.Refs()[0] != firstGrant || p.Refs()[2] != firstGrant+2 {
			t.Fatalf("%d bytes, refs %v", len(p.Bytes()), p.Refs())
		}
		m := mapGrant(t, back, 1, p.Refs()[1], true)
		if len(m.Bytes()) != xen.PageSize {
			t.Fatalf("mapping of %d bytes", len(m.Bytes()))
		}
		p.Bytes()[xen.PageSize+5] = 1
		m.Bytes()[6] = 2
		if m.Bytes()[5] != 1 || p.Bytes()[xen.PageSize+6] != 2 {
			t.Fatal("the two sides see different memory")
		}
		if err := errors.Join(m.Unmap(), p.Free()); err != nil {
			t.Fatal(err)
		}
		if in := s.GrantsInUse(1); len(in) != 0 {
			t.Fatalf("in use: %v", in)
		}
	})
}

func TestGrantOfAnotherDomainCannotBeMapped(t *testing.T) {
	bothMemories(t, func(t *testing.T, opts Options) {
		s := newServer(t, opts)
		front, back, other := connect(t, s, 1), connect(t, s, 0), connect(t, s, 2)
		p := alloc(t, front, 0, 1, false)
		for name, c := range map[string]struct {
			conn     *Connection
			ref      xen.GrantRef
			writable bool
			want     error
		}{
			"granted to another domain": {other, p.Refs()[0], false, fs.ErrPermission},
			"read-only":                 {back, p.Refs()[0], true, fs.ErrPermission},
			"not granted":               {back, p.Refs()[0] + 1, false, unix.ENOENT},
			"out of the table":          {back, 1 << 31, false, unix.ENOENT},
		} {
			if _, err := c.conn.MapGrant(1, c.ref, c.writable); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		}
	})
}

func TestPageFreedWhileMappedIsNotReused(t *testing.T) {
	bothMemories(t, func(t *testing.T, opts Options) {
		s := newServer(t, opts)
		front, back := connect(t, s, 1), connect(t, s, 0)
		p := alloc(t, front, 0, 2, true)
		ref := p.Refs()[1]
		m := mapGrant(t, back, 1, ref, true)
		m.Bytes()[0] = 7
		if err := p.Free(); err != nil {
			t.Fatal(err)
		}
		in := s.GrantsInUse(1)
		if len(in) != 1 || in[0] != (GrantEntry{Ref: ref, Mapped: 1, Deferred: true}) {
			t.Fatalf("in use: %+v", in)
		}
		q := alloc(t, front, 0, 4, true)
		for i, other := range q.Refs() {
			if other == ref {
				t.Fatal("a deferred reference was given out")
			}
			q.Bytes()[i*xen.PageSize] = 9
		}
		if m.Bytes()[0] != 7 || !m.Live() {
			t.Fatal("a mapped page changed hands")
		}
		if err := m.Unmap(); err != nil {
			t.Fatal(err)
		}
		if in := s.GrantsInUse(1); len(in) != 4 {
			t.Fatalf("in use: %+v", in)
		}
	})
}

func TestMappingForCopiesDoesNotHoldThePage(t *testing.T) {
	bothMemories(t, func(t *testing.T, opts Options) {
		s := newServer(t, opts)
		front, back := connect(t, s, 1), connect(t, s, 0)
		p := alloc(t, front, 0, 1, true)
		ref := p.Refs()[0]
		m, err := back.MapForCopy(1, ref, true)
		if err != nil {
			t.Fatal(err)
		}
		if !m.Live() || !back.Live(1, ref) {
			t.Fatal("not live")
		}
		if err := p.Free(); err != nil {
			t.Fatal(err)
		}
		if m.Live() || back.Live(1, ref) || len(s.GrantsInUse(1)) != 0 {
			t.Fatal("live after the granter freed it")
		}
		q := alloc(t, front, 0, 1, true)
		if q.Refs()[0] != ref {
			t.Fatalf("ref %d, want %d again: this test needs it", q.Refs()[0], ref)
		}
		if m.Live() || !back.Live(1, ref) {
			t.Fatal("a reference that was given out again is taken for the old one")
		}
		if err := m.Unmap(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestGrantLimitIsTheWholeGuests(t *testing.T) {
	s := newServer(t, Options{})
	a, b := connect(t, s, 1), connect(t, s, 1)
	if n, err := a.Grants().Limit(); n != 1024 || err != nil {
		t.Fatalf("limit %d, %v", n, err)
	}
	p := alloc(t, a, 0, 1000, true)
	if _, err := b.Grants().Alloc(0, 25, true); !errors.Is(err, xen.ErrGrantLimit) {
		t.Fatalf("1025 pages of 1024: %v", err)
	}
	alloc(t, b, 0, 24, true)
	if err := b.Grants().RaiseLimit(1024); err != nil {
		t.Fatalf("raise to what it is: %v", err)
	}
	if err := b.Grants().RaiseLimit(1025); !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("raise: %v", err)
	}
	m := mapGrant(t, connect(t, s, 0), 1, p.Refs()[0], false)
	if err := p.Free(); err != nil {
		t.Fatal(err)
	}
	alloc(t, b, 0, 1000, true) // the deferred page does not count
	if err := m.Unmap(); err != nil {
		t.Fatal(err)
	}
}

func TestGrantLimitCanBeRaisedWhereAllowed(t *testing.T) {
	s := newServer(t, Options{GrantLimit: 10, AllowRaise: true})
	c := connect(t, s, 1)
	if _, err := c.Grants().Alloc(0, 11, true); !errors.Is(err, xen.ErrGrantLimit) {
		t.Fatalf("11 pages of 10: %v", err)
	}
	if err := c.Grants().RaiseLimit(11); err != nil {
		t.Fatal(err)
	}
	alloc(t, c, 0, 11, true)
	s.FailGrants(true)
	if err := c.Grants().RaiseLimit(5000); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Grants().Alloc(0, 1, true); !errors.Is(err, xen.ErrGrantLimit) {
		t.Fatalf("with the fault: %v", err)
	}
	s.FailGrants(false)
	alloc(t, c, 0, 4989, true)
}

func TestClosedConnectionLosesItsGrants(t *testing.T) {
	s := newServer(t, Options{})
	front, back := connect(t, s, 1), connect(t, s, 0)
	p := alloc(t, front, 0, 4, true)
	m := mapGrant(t, back, 1, p.Refs()[2], true)
	if err := front.Close(); err != nil {
		t.Fatal(err)
	}
	in := s.GrantsInUse(1)
	if len(in) != 1 || !in[0].Deferred || in[0].Mapped != 1 {
		t.Fatalf("in use: %+v", in)
	}
	m.Bytes()[0] = 1 // still there
	if err := back.Close(); err != nil {
		t.Fatal(err)
	}
	if in := s.GrantsInUse(1); len(in) != 0 {
		t.Fatalf("in use after the backend's end: %+v", in)
	}
	if err := m.Unmap(); err != nil {
		t.Fatalf("unmap after the connection's end: %v", err)
	}
}
