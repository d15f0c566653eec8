package busdma

import (
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// State is where a map is between the pool and the peer. The package comment has
// the diagram.
type State uint8

const (
	// Pooled: in the pool, anybody's.
	Pooled State = iota
	// Taken: out of the pool and not loaded. The page is the taker's to write.
	Taken
	// Loaded: stands for a buffer, but the peer has not been told.
	Loaded
	// InFlight: the grant ref is in the peer's hands.
	InFlight
	// Quarantined: the peer may have the page mapped and will not say. Not reused
	// until the slab goes.
	Quarantined

	numStates = iota
)

func (s State) String() string {
	switch s {
	case Pooled:
		return "pooled"
	case Taken:
		return "taken"
	case Loaded:
		return "loaded"
	case InFlight:
		return "in flight"
	case Quarantined:
		return "quarantined"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Map is one page and its grant reference, from creation to destruction
// (bus_dmamap_t with BUS_DMA_XEN_PREALLOC_REFS). It is used through pointers; a
// copy is refused with [ErrCopied].
type Map struct {
	_    noCopy
	self *Map // m itself; nil once destroyed, and another's in a copy
	tag  *Tag
	slab *Slab
	pool *Pool      // nil for a map of NewMap
	st   *PoolState // has the state of this map, at slot
	page []byte
	// bounce is the buffer that the page stands for when it is not in the page
	// itself, while loaded or in flight.
	bounce []byte
	seg    [1]Segment // of the load; an array, so that LoadFunc can show it
	ref    xen.GrantRef
	index  int // page in the slab
	slot   uint8
	unsent bool // bounced in a read-only tag, and not yet copied
}

// noCopy lets go vet find copies of a Map, most of all `for _, m := range run`.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// Ref is the grant reference of the page.
func (m *Map) Ref() xen.GrantRef { return m.ref }

// Page is the map's page, xen.PageSize bytes. The peer may read it at any time, and
// write it at any time unless the tag is read-only. It is nil after Destroy.
func (m *Map) Page() []byte { return m.page }

// Index is the number of the page in its slab.
func (m *Map) Index() int { return m.index }

// State is where the map is. A destroyed one is [Pooled].
func (m *Map) State() State {
	if m.st == nil {
		return Pooled
	}
	return m.st.states[m.slot]
}

// Destroy ends a map of [Slab.NewMap]. It fails with [ErrBusy] while the map is
// loaded or in flight, and for a map of a pool, which goes with the pool. A map in
// quarantine can be destroyed; its page stays out of use until the slab is freed.
func (m *Map) Destroy() error {
	if m == nil || m.self != m {
		return fmt.Errorf("destroy map: %w", m.refusal(nil))
	}
	state := m.State()
	if m.pool != nil || state == Loaded || state == InFlight {
		return fmt.Errorf("destroy map, %v: %w", state, ErrBusy)
	}
	m.slab.displace(m)
	return nil
}

// move changes the state, and the sums of the states with it.
func (m *Map) move(to State) {
	st := m.st
	st.count[st.states[m.slot]&(maxStates-1)]--
	st.count[to&(maxStates-1)]++
	st.states[m.slot] = to
}

// refusal says why m is no good for t.
func (m *Map) refusal(t *Tag) error {
	switch {
	case m == nil:
		return ErrWrongTag
	case m.self == nil:
		return ErrDestroyed
	case m.self != m:
		return ErrCopied
	case m.tag != t:
		return ErrWrongTag
	}
	return nil
}

// refusalInRun says why m, an element of a run, is no good for t. A copy there says
// that the run was put together from elsewhere.
func (m *Map) refusalInRun(t *Tag) error {
	if m.self != nil && m.self != m {
		return ErrNotContiguous
	}
	return m.refusal(t)
}
