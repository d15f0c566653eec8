package busdma

import (
	"errors"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// pageUse says what became of a page of a slab.
type pageUse uint8

const (
	pageUnused pageUse = iota
	pageMapped         // a Map stands for it
	pageSpent          // its map was quarantined and destroyed; never again
)

// Slab is granted pages in one contiguous mapping, allocated and freed together:
// Linux's gntalloc can neither end the grant of a single page while the mapping
// stands, nor tell whether the peer still has it mapped. So what a page goes
// through is told by its [Map], and a page that cannot be trusted any more waits in
// quarantine for the end of its slab.
type Slab struct {
	tag   *Tag
	pages xen.Pages
	mem   []byte
	refs  []xen.GrantRef
	use   []pageUse
	maps  int // maps that stand
	freed bool
}

// AllocSlab allocates pages pages, zeroed and granted as the tag says. It fails
// with [ErrRange] when pages is not positive, and with [xen.ErrGrantLimit] when the
// guest's limit is reached.
func (t *Tag) AllocSlab(pages int) (*Slab, error) {
	if t.destroyed {
		return nil, fmt.Errorf("allocate slab: %w", ErrDestroyed)
	}
	if pages <= 0 {
		return nil, fmt.Errorf("allocate slab of %d pages: %w", pages, ErrRange)
	}
	granted, err := t.grants.Alloc(t.config.Peer, pages, !t.config.ReadOnly)
	if err != nil {
		return nil, fmt.Errorf("allocate slab of %d pages: %w", pages, err)
	}
	slab, err := t.AdoptSlab(granted)
	if err != nil {
		return nil, errors.Join(err, granted.Free())
	}
	return slab, nil
}

// AdoptSlab makes a slab of pages that were allocated elsewhere, as by the process
// before this one. They must be granted as the tag says, which nothing here can
// check. The slab owns pages from then on; after an error the caller still does.
func (t *Tag) AdoptSlab(pages xen.Pages) (*Slab, error) {
	if t.destroyed {
		return nil, fmt.Errorf("adopt slab: %w", ErrDestroyed)
	}
	mem, refs := pages.Bytes(), pages.Refs()
	if len(refs) == 0 || len(mem) != len(refs)*xen.PageSize {
		return nil, fmt.Errorf("adopt slab of %d bytes with %d grants: %w", len(mem), len(refs), ErrRange)
	}
	t.slabs++
	return &Slab{tag: t, pages: pages, mem: mem, refs: refs, use: make([]pageUse, len(refs))}, nil
}

// Bytes is the whole mapping, Pages × xen.PageSize bytes, nil after Free. The maps
// of a run lie in it one after the other, so that one read can fill them all. The
// peer may read it at any time, and write it at any time unless the tag is
// read-only.
func (s *Slab) Bytes() []byte { return s.mem }

// Granted is the pages themselves, for whoever hands them to another process. They
// stay the slab's.
func (s *Slab) Granted() xen.Pages { return s.pages }

// Pages is the number of pages.
func (s *Slab) Pages() int { return len(s.use) }

// NewMap makes a map of a page that belongs to no pool, as for the page of a ring.
// It begins as [Taken]. It fails with [ErrRange], with [ErrBusy] when the page has a
// map, and with [ErrQuarantined] when the page's last map ended in quarantine.
func (s *Slab) NewMap(page int) (*Map, error) {
	if err := s.available(page); err != nil {
		return nil, fmt.Errorf("new map of page %d: %w", page, err)
	}
	m := new(Map)
	s.place(m, page)
	m.st = &PoolState{created: 1}
	m.st.states[0] = Taken
	m.st.count[Taken] = 1
	return m, nil
}

// Free unmaps the pages and ends their grants. It fails with [ErrBusy] while a map
// stands. Pages that the peer still has mapped, those in quarantine perhaps, stay
// out of use in the kernel's hands until the peer lets go. When the kernel refuses,
// the slab stands as before.
func (s *Slab) Free() error {
	if s.freed {
		return fmt.Errorf("free slab: %w", ErrDestroyed)
	}
	if s.maps != 0 {
		return fmt.Errorf("free slab with %d maps: %w", s.maps, ErrBusy)
	}
	if err := s.pages.Free(); err != nil {
		return fmt.Errorf("free slab: %w", err)
	}
	s.freed, s.mem = true, nil
	s.tag.slabs--
	return nil
}

// Release ends the slab without its pages, which are the caller's from then on, granted and
// mapped as they are. It fails as Free does.
func (s *Slab) Release() (xen.Pages, error) {
	if s.freed {
		return nil, fmt.Errorf("release slab: %w", ErrDestroyed)
	}
	if s.maps != 0 {
		return nil, fmt.Errorf("release slab with %d maps: %w", s.maps, ErrBusy)
	}
	s.freed, s.mem = true, nil
	s.tag.slabs--
	return s.pages, nil
}

// available tells whether a map can be made of page.
func (s *Slab) available(page int) error {
	switch {
	case s.freed:
		return ErrDestroyed
	case page < 0 || page >= len(s.use):
		return ErrRange
	case s.use[page] == pageMapped:
		return ErrBusy
	case s.use[page] == pageSpent:
		return ErrQuarantined
	}
	return nil
}

// place makes m the map of page.
func (s *Slab) place(m *Map, page int) {
	start, end := page*xen.PageSize, (page+1)*xen.PageSize
	m.self, m.tag, m.slab = m, s.tag, s
	m.page = s.mem[start:end:end]
	m.ref = s.refs[page]
	m.index = page
	s.use[page] = pageMapped
	s.maps++
}

// displace ends m. Whoever still has a pointer to it gets ErrDestroyed.
func (s *Slab) displace(m *Map) {
	s.use[m.index] = pageUnused
	if m.State() == Quarantined {
		s.use[m.index] = pageSpent
	}
	s.maps--
	*m = Map{}
}
