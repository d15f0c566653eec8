package busdma

import "fmt"

// Pool is the fixed set of maps of one slab. A map is taken out when a grant is
// needed and put back when it is released; none is created or destroyed in between.
// Single maps come from the bottom and runs from the top, so that the former do not
// break up the latter. It belongs to one goroutine at a time, that of its tag.
type Pool struct {
	tag       *Tag
	slab      *Slab
	st        *PoolState
	maps      []Map // map i is page i of the slab, and has place i in st
	waiting   waitList
	calling   bool // a callback of a deferred load is running
	destroyed bool
}

// Counts is how many maps of a pool are in which state. Free + Loaded + InFlight +
// Quarantined is always Created.
type Counts struct {
	Free        int // Pooled and Taken
	Loaded      int
	InFlight    int
	Quarantined int
	Created     int
}

// NewPool makes one map for each page of slab, all pooled. They keep their states in
// st, which must be the zero value; nil stands for memory of the pool's own. It
// fails with [ErrWrongTag], with [ErrRange] when the slab has more than [MaxMaps]
// pages, with [ErrBusy] when a page has a map or st is in use, and with
// [ErrQuarantined] when a page was quarantined.
func NewPool(tag *Tag, slab *Slab, st *PoolState) (*Pool, error) {
	if st == nil {
		st = new(PoolState)
	}
	if *st != (PoolState{}) {
		return nil, fmt.Errorf("new pool: state of %d maps: %w", st.created, ErrBusy)
	}
	if err := poolable(tag, slab); err != nil {
		return nil, fmt.Errorf("new pool: %w", err)
	}
	st.fill(slab.Pages())
	return populate(tag, slab, st), nil
}

// AdoptPool makes a pool of the state that another process's pool has left, over the
// same pages. That process may have died between any two instructions, so nothing is
// believed but the state of each map, which is one byte; the sums are made anew.
//
// InFlight tells for each map, by its number and the state it was left in, whether
// the peer has its grant ref now; nil stands for those left so. The others are pooled:
// whoever had them taken or loaded is gone, and had not yet published them. What was
// in quarantine stays there. The loads of the maps in flight are taken as in place,
// for the buffers of those that were not are gone.
//
// It fails with [ErrCorrupt] when st is of another number of maps than slab has
// pages, or has a state that there is not, and otherwise as [NewPool] does.
func AdoptPool(tag *Tag, slab *Slab, st *PoolState, inFlight func(i int, was State) bool) (*Pool, error) {
	if err := poolable(tag, slab); err != nil {
		return nil, fmt.Errorf("adopt pool: %w", err)
	}
	if int(st.created) != slab.Pages() {
		return nil, fmt.Errorf("adopt pool: state of %d maps for %d pages: %w", st.created, slab.Pages(), ErrCorrupt)
	}
	if err := st.plausible(); err != nil {
		return nil, fmt.Errorf("adopt pool: %w", err)
	}
	if inFlight == nil {
		inFlight = func(_ int, was State) bool { return was == InFlight }
	}
	st.recover(inFlight)
	return populate(tag, slab, st), nil
}

// poolable tells whether slab can be a pool of tag.
func poolable(tag *Tag, slab *Slab) error {
	if slab.tag != tag {
		return ErrWrongTag
	}
	if slab.Pages() > MaxMaps {
		return fmt.Errorf("slab of %d pages: %w", slab.Pages(), ErrRange)
	}
	for page := range slab.Pages() {
		if err := slab.available(page); err != nil {
			return fmt.Errorf("page %d: %w", page, err)
		}
	}
	return nil
}

func populate(tag *Tag, slab *Slab, st *PoolState) *Pool {
	p := &Pool{tag: tag, slab: slab, st: st, maps: make([]Map, slab.Pages())}
	for i := range p.maps {
		m := &p.maps[i]
		slab.place(m, i)
		m.pool, m.st, m.slot = p, st, uint8(i)
	}
	return p
}

// Take takes the pooled map with the lowest index out of the pool, or reports false
// when none is left.
func (p *Pool) Take() (*Map, bool) {
	i, ok := p.st.lowest()
	if !ok || i >= len(p.maps) {
		return nil, false
	}
	m := &p.maps[i]
	p.st.free[i/wordBits] &^= 1 << (i % wordBits)
	m.move(Taken)
	return m, true
}

// TakeRun takes n maps whose pages follow each other, those with the highest indices
// there are, or reports false when there is no such run. The slice is part of the
// pool's own: its elements are used by pointer, &run[i], and it must not be appended
// to. They can be put back one by one and in any order.
func (p *Pool) TakeRun(n int) ([]Map, bool) {
	if n <= 0 || n > len(p.maps) {
		return nil, false
	}
	first, ok := p.st.highestRun(n)
	if !ok || first+n > len(p.maps) {
		return nil, false
	}
	p.st.clearFree(first, n)
	run := p.maps[first : first+n : first+n]
	for i := range run {
		run[i].move(Taken)
	}
	return run, true
}

// Put puts a map that is Taken back into the pool. Loads that wait for one are
// completed before it returns. It fails with [ErrWrongPool] and [ErrNotTaken].
func (p *Pool) Put(m *Map) error {
	if err := p.own(m); err != nil {
		return err
	}
	p.put(m)
	if p.waiting.len() != 0 {
		p.complete()
	}
	return nil
}

// PutRun puts all maps of run back, or after an error none. It fails as Put does,
// and with [ErrNotContiguous].
func (p *Pool) PutRun(run []Map) error {
	for i := range run {
		m := &run[i]
		if m.self != m && m.self != nil {
			return ErrNotContiguous
		}
		if err := p.own(m); err != nil {
			return err
		}
	}
	for i := range run {
		p.put(&run[i])
	}
	if p.waiting.len() != 0 {
		p.complete()
	}
	return nil
}

// own tells whether m can be put back here.
func (p *Pool) own(m *Map) error {
	switch {
	case m == nil:
		return ErrWrongPool
	case m.self != m:
		return m.refusal(p.tag)
	case m.pool != p:
		return ErrWrongPool
	case m.State() != Taken:
		return ErrNotTaken
	}
	return nil
}

func (p *Pool) put(m *Map) {
	m.move(Pooled)
	p.st.free[m.slot/wordBits] |= 1 << (m.slot % wordBits)
}

// At is the map with index i, in whatever state it is. It reports false when there
// is none: i may be an id that the peer made up. Whether the map is in flight is for
// the caller to see from its State.
func (p *Pool) At(i int) (*Map, bool) {
	if uint(i) >= uint(len(p.maps)) {
		return nil, false
	}
	return &p.maps[i], true
}

// Free is the number of maps that Take could give now. Those taken are not in it,
// unlike in [Counts].
func (p *Pool) Free() int { return int(p.st.count[Pooled]) }

// Counts is how many maps are in which state. After Destroy all are zero.
func (p *Pool) Counts() Counts {
	n := &p.st.count
	return Counts{
		Free:        int(n[Pooled] + n[Taken]),
		Loaded:      int(n[Loaded]),
		InFlight:    int(n[InFlight]),
		Quarantined: int(n[Quarantined]),
		Created:     int(p.st.created),
	}
}

// Check recomputes all that the pool keeps about its maps from their states, and
// fails with [ErrCorrupt] when something is not so, most of all when free + loaded +
// in flight + quarantined is not what was created. It is for tests and dumps.
func (p *Pool) Check() error {
	if err := p.st.check(); err != nil {
		return err
	}
	if n := p.Counts(); n.Free+n.Loaded+n.InFlight+n.Quarantined != n.Created || n.Created != len(p.maps) {
		return fmt.Errorf("pool of %d maps with %+v: %w", len(p.maps), n, ErrCorrupt)
	}
	for i := range p.maps {
		m := &p.maps[i]
		if m.self != m || m.index != i || int(m.slot) != i || m.st != p.st {
			return fmt.Errorf("map %d out of its place: %w", i, ErrCorrupt)
		}
		if m.bounce != nil && m.State() != Loaded && m.State() != InFlight {
			return fmt.Errorf("map %d, %v, holds a buffer: %w", i, m.State(), ErrCorrupt)
		}
	}
	if p.waiting.len() != 0 && !p.calling && p.Free() != 0 {
		return fmt.Errorf("%d loads wait for one of %d pooled maps: %w", p.waiting.len(), p.Free(), ErrCorrupt)
	}
	return nil
}

// Abandon quarantines every map that is in flight or loaded, and returns how many. It
// is for when the connection is gone and no response will come any more: the peer may
// keep the pages mapped for as long as it likes. A map that is loaded is what an owner
// leaves that was stopped in the middle of a frame; the peer may have read its grant ref
// from the ring before it was told of it.
func (p *Pool) Abandon() int {
	n := 0
	for i := range p.maps {
		m := &p.maps[i]
		if state := m.State(); state == InFlight || state == Loaded {
			m.unload(Quarantined)
			n++
		}
	}
	return n
}

// Destroy ends the pool and its maps, and cancels the loads that wait for one, whose
// callbacks get [ErrCancelled]. It fails with [ErrBusy] while a map is loaded or in
// flight; see [Pool.Abandon]. Maps in quarantine do not keep it: their pages stay
// out of use until the slab is freed.
func (p *Pool) Destroy() error {
	if p.destroyed {
		return fmt.Errorf("destroy pool: %w", ErrDestroyed)
	}
	if n := p.Counts(); n.Loaded+n.InFlight != 0 {
		return fmt.Errorf("destroy pool with %d maps loaded and %d in flight: %w", n.Loaded, n.InFlight, ErrBusy)
	}
	p.destroyed = true
	for i := range p.maps {
		p.slab.displace(&p.maps[i])
	}
	p.maps = nil
	*p.st = PoolState{}
	p.complete()
	return nil
}
