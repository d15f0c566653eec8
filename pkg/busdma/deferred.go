package busdma

// LoadFunc takes a map, loads buf into it and calls cb with it and its segments.
// When no map is pooled it returns [ErrInProgress], keeps buf and cb, and calls cb
// in a later [Pool.Put], when a map has come back. Loads are completed in the order
// of the calls. The map belongs to cb, to be unloaded and put back in the end.
//
// cb is called exactly once: with a map; or, before LoadFunc returns, with the error
// that it returns too; or with [ErrCancelled], the only failure of a load that had
// to wait, when the pool is destroyed. The errors are those of [Tag.Load], with
// [ErrBoundary] for any buf in the pool's own slab: the pool chooses the map, so it
// cannot be in place.
//
// cb may call every method of the pool. Callbacks with a map do not nest: a LoadFunc
// within one returns ErrInProgress even when a map is pooled, and its callback
// follows when the first has returned.
func (p *Pool) LoadFunc(buf []byte, cb func(m *Map, segs []Segment, err error)) error {
	if cb == nil {
		return errNoCallback
	}
	// All that can be wrong is found out before waiting.
	if err := p.loadable(buf); err != nil {
		cb(nil, nil, err)
		return err
	}
	w := waiter{buf: buf, cb: cb}
	if p.calling || p.waiting.len() != 0 || p.Free() == 0 {
		p.waiting.push(w)
		return ErrInProgress
	}
	p.load(w)
	p.complete() // what cb has asked for
	return nil
}

// loadable tells whether buf can be bounced into any map of the pool.
func (p *Pool) loadable(buf []byte) error {
	switch {
	case p.destroyed:
		return ErrDestroyed
	case len(buf) == 0:
		return ErrEmpty
	case len(buf) > p.tag.piece:
		return ErrTooLarge
	}
	if _, place := locate(p.slab.mem, len(p.slab.mem), buf); place != elsewhere {
		return ErrBoundary
	}
	return nil
}

// complete does for the waiting loads what can be done now.
func (p *Pool) complete() {
	// Within a callback the loop that has called it goes on, here or in LoadFunc.
	if p.calling {
		return
	}
	for p.waiting.len() != 0 {
		switch {
		case p.destroyed:
			p.waiting.pop().cb(nil, nil, ErrCancelled)
		case p.Free() == 0:
			return
		default:
			p.load(p.waiting.pop())
		}
	}
}

// load loads w into a pooled map, of which there is one.
func (p *Pool) load(w waiter) {
	m, ok := p.Take()
	if !ok {
		w.cb(nil, nil, ErrCorrupt) // only if another has written the state
		return
	}
	m.loadBounced(w.buf)
	p.calling = true
	defer func() { p.calling = false }()
	w.cb(m, m.seg[:], nil)
}

// waiter is a load that has no map yet.
type waiter struct {
	buf []byte
	cb  func(m *Map, segs []Segment, err error)
}

// waitList is the loads that wait, the first to come first. It keeps its memory.
type waitList struct {
	list  []waiter
	first int
}

func (l *waitList) len() int { return len(l.list) - l.first }

func (l *waitList) push(w waiter) {
	// Half of it at least must be gone to make moving the rest worth it.
	if len(l.list) == cap(l.list) && l.first >= len(l.list)-l.first {
		n := copy(l.list, l.list[l.first:])
		clear(l.list[n:])
		l.list, l.first = l.list[:n], 0
	}
	l.list = append(l.list, w)
}

func (l *waitList) pop() waiter {
	w := l.list[l.first]
	l.list[l.first] = waiter{} // lets go of the buffer
	l.first++
	if l.first == len(l.list) {
		l.list, l.first = l.list[:0], 0
	}
	return w
}
