package busdma

import (
	"unsafe"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// Load makes m stand for buf and returns the segment to tell the peer: Taken to
// Loaded. A buf within m's own page is loaded in place, without a copy. Any other
// is bounced: the segment begins at the start of the page, and buf is kept until
// Unload, read at Sync(PreWrite) and written at Sync(PostRead).
//
// It fails with [ErrNotTaken], [ErrEmpty], [ErrTooLarge], [ErrBoundary], and as
// every method with a map in hand with [ErrWrongTag], [ErrCopied], [ErrDestroyed].
func (t *Tag) Load(m *Map, buf []byte) (Segment, error) {
	if m == nil || m.self != m || m.tag != t {
		return Segment{}, m.refusal(t)
	}
	if m.State() != Taken {
		return Segment{}, ErrNotTaken
	}
	offset, place := locate(m.page, xen.PageSize, buf)
	switch {
	case len(buf) == 0:
		return Segment{}, ErrEmpty
	case place == astride:
		return Segment{}, ErrBoundary
	case place == elsewhere && len(buf) > t.piece:
		return Segment{}, ErrTooLarge
	}
	if place == inside {
		if err := t.fits(offset, len(buf)); err != nil {
			return Segment{}, err
		}
		m.load(offset, len(buf))
	} else {
		m.loadBounced(buf)
	}
	return m.seg[0], nil
}

// LoadRun makes the maps of run, which [Pool.TakeRun] gave, stand for buf together
// and appends one segment for each map loaded to segs. A buf within the pages of
// the run is loaded in place, in those maps that it touches, the first of which is
// the one it begins in. Any other is bounced into the first maps, each filled as far
// as the tag's limits allow. Maps of the run that are not needed stay Taken.
//
// It fails as [Tag.Load] does, with [ErrTooLarge] also when the run is too short or
// MaxSegments too small, and with [ErrNotContiguous]. Then no map has changed and
// segs is returned as it was. It allocates only when segs is too short.
func (t *Tag) LoadRun(run []Map, buf []byte, segs []Segment) ([]Segment, error) {
	if len(buf) == 0 {
		return segs, ErrEmpty
	}
	if len(run) == 0 {
		return segs, ErrTooLarge
	}
	first := &run[0]
	if first.self != first || first.tag != t {
		return segs, first.refusalInRun(t)
	}
	offset, place := locate(first.page, len(run)*xen.PageSize, buf)
	switch place {
	case astride:
		return segs, ErrBoundary
	case inside:
		run = run[offset/xen.PageSize:]
		return t.loadRun(run, buf, offset%xen.PageSize, xen.PageSize, segs)
	default:
		return t.loadRun(run, buf, -1, t.piece, segs)
	}
}

// loadRun loads buf into the first maps of run, size bytes in each but the first
// and the last. It is in place from offset of the first page, or bounced when offset
// is -1.
func (t *Tag) loadRun(run []Map, buf []byte, offset, size int, segs []Segment) ([]Segment, error) {
	start := max(offset, 0)
	need := (start + len(buf) + size - 1) / size
	if need > len(run) || need > t.config.MaxSegments {
		return segs, ErrTooLarge
	}
	run = run[:need]
	for i := range run {
		m := &run[i]
		// Real maps next to each other in memory are next to each other in one
		// pool, and so are their pages.
		if m.self != m || m.tag != t {
			return segs, m.refusalInRun(t)
		}
		if m.State() != Taken {
			return segs, ErrNotTaken
		}
		from := 0
		if i == 0 {
			from = start
		}
		if offset >= 0 {
			if err := t.fits(from, min(size, start+len(buf)-i*size)-from); err != nil {
				return segs, err
			}
		}
	}
	for i := range run {
		m := &run[i]
		n := min(size-start, len(buf))
		if offset >= 0 {
			m.load(start, n)
		} else {
			m.loadBounced(buf[:n:n])
		}
		segs = append(segs, m.seg[0])
		buf, start = buf[n:], 0
	}
	return segs, nil
}

// LoadFunc is [Tag.Load] with a callback, the way of bus_dmamap_load. It calls cb
// once before it returns, with the one segment or with the error that it also
// returns. The segments are good until m is unloaded.
func (t *Tag) LoadFunc(m *Map, buf []byte, cb func(segs []Segment, err error)) error {
	if cb == nil {
		return errNoCallback
	}
	if _, err := t.Load(m, buf); err != nil {
		cb(nil, err)
		return err
	}
	cb(m.seg[:], nil)
	return nil
}

// Publish says that the grant ref of m is going to the peer: Loaded to InFlight. It
// must come before the ring's producer index does, so that no moment exists in
// which the peer may use a page that is not accounted for. It fails with
// [ErrNotLoaded], and with [ErrNotSynced] for a bounced load of a read-only tag.
func (t *Tag) Publish(m *Map) error {
	if m == nil || m.self != m || m.tag != t {
		return m.refusal(t)
	}
	if m.State() != Loaded {
		return ErrNotLoaded
	}
	if m.unsent {
		return ErrNotSynced
	}
	m.move(InFlight)
	return nil
}

// Unload ends the load: Loaded or InFlight to Taken. For a map in flight the caller
// must have the peer's word that it is done, which is its response. Where that will
// not come, [Tag.Quarantine] is the way. It fails with [ErrNotLoaded].
func (t *Tag) Unload(m *Map) error {
	if m == nil || m.self != m || m.tag != t {
		return m.refusal(t)
	}
	if state := m.State(); state != Loaded && state != InFlight {
		return ErrNotLoaded
	}
	m.unload(Taken)
	return nil
}

// Quarantine takes m out of use until its slab goes, because the peer may have its
// page mapped and cannot be believed or asked. It fails with [ErrNotTaken] for a
// map in its pool.
func (t *Tag) Quarantine(m *Map) error {
	if m == nil || m.self != m || m.tag != t {
		return m.refusal(t)
	}
	if m.State() == Pooled {
		return ErrNotTaken
	}
	m.unload(Quarantined)
	return nil
}

// fits tells whether n bytes from offset of a page can be one segment.
func (t *Tag) fits(offset, n int) error {
	if n > t.config.MaxSegmentSize {
		return ErrTooLarge
	}
	if (offset^(offset+n-1))&^(t.config.Boundary-1) != 0 {
		return ErrBoundary
	}
	return nil
}

func (m *Map) load(offset, n int) {
	m.seg[0] = Segment{Ref: m.ref, Offset: uint16(offset), Len: uint16(n)}
	m.move(Loaded)
}

func (m *Map) loadBounced(buf []byte) {
	m.bounce = buf
	m.unsent = m.tag.config.ReadOnly
	m.load(0, len(buf))
}

func (m *Map) unload(to State) {
	if m.bounce != nil {
		m.bounce, m.unsent = nil, false
	}
	m.move(to)
}

type placement uint8

const (
	inside    placement = iota // wholly in the pages
	elsewhere                  // wholly outside
	astride                    // partly in them
)

// locate tells where buf lies with regard to the size bytes that begin with page,
// and at which offset when inside.
//
// It compares addresses as numbers and makes no pointer of them: what is later read
// and written goes through page and buf themselves. Neither can move within the
// comparison in a way that matters. Granted memory is a mapping or on the heap,
// which Go's collector does not move. buf may be on the stack, which moves, but no
// stack lies in such memory before or after. And two live objects do not share
// addresses, so a buf whose bytes are in the range has the very bytes of the range.
func locate(page []byte, size int, buf []byte) (offset int, where placement) {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(page)))
	at := uintptr(unsafe.Pointer(unsafe.SliceData(buf)))
	// Unsigned differences: of the two at most one is not huge.
	after, before := at-start, start-at
	switch {
	case after < uintptr(size) && uintptr(len(buf)) <= uintptr(size)-after:
		return int(after), inside
	case after < uintptr(size) || before < uintptr(len(buf)):
		return 0, astride
	}
	return 0, elsewhere
}
