package hold

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// errClosed says that a store takes nothing any more.
var errClosed = errors.New("it is ending, and takes nothing any more")

// store is a set of bundles that own their descriptors. Any goroutine may call it.
type store struct {
	mu     sync.Mutex
	live   map[string]*held // by key
	parked map[string]*held // by identifier
	files  int              // descriptors of all of them
	closed bool             // takes nothing any more
}

// held is a bundle in a store. Its descriptors are closed when it is in the store no
// longer and nobody uses it. All fields are guarded by store.mu; Files never changes
// while there is a user.
type held struct {
	Bundle
	users int // the store is one itself
}

func newStore() *store {
	return &store{live: make(map[string]*held), parked: make(map[string]*held)}
}

// find returns a bundle by its identifier if that is not empty, and else by its key.
// Its descriptors stay open until the caller gives h back with release. h is nil when
// there is none.
func (s *store) find(key, id string) (b Bundle, h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h = s.lookup(key, id); h == nil {
		return Bundle{}, nil
	}
	h.users++
	return h.Bundle, h
}

func (s *store) lookup(key, id string) *held {
	if id != "" {
		return s.parked[id]
	}
	return s.live[key]
}

// release ends a use. It may close descriptors, which can take its time: no lock is
// held meanwhile.
func (s *store) release(h *held) {
	if h == nil {
		return
	}
	s.mu.Lock()
	h.users--
	last := h.users == 0
	s.mu.Unlock()
	if last {
		_ = h.Close()
	}
}

// put takes a bundle over, live or parked, and returns what it replaced, for the caller
// to release. With an error, or when a bundle of that identifier is parked already
// (taken is false then), the descriptors remain the caller's. Limit is the most
// descriptors that the store may have while the old bundle is not closed yet.
func (s *store) put(b Bundle, limit int) (old *held, taken bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, errClosed
	}
	if b.Parked != "" && s.parked[b.Parked] != nil {
		return nil, false, nil
	}
	if b.Parked == "" {
		old = s.live[b.Key]
	}
	if old == nil && len(s.live)+len(s.parked) >= MaxBundles {
		return nil, false, fmt.Errorf("%d bundles are held, and no more than that", MaxBundles)
	}
	if s.files+len(b.Files) > limit {
		return nil, false, fmt.Errorf("%d descriptors are held, %d more would exceed the limit of %d (raise LimitNOFILE= or `ulimit -Hn`)", s.files, len(b.Files), limit)
	}
	h := &held{Bundle: b, users: 1}
	if b.Parked != "" {
		s.parked[b.Parked] = h
	} else {
		s.live[b.Key] = h
	}
	s.files += len(b.Files)
	if old != nil {
		s.files -= len(old.Files)
	}
	return old, true, nil
}

// drop takes the live bundle of a key out of the store, for the caller to release. It
// returns nil if there is none.
func (s *store) drop(key string) *held {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.live[key]
	if h != nil {
		delete(s.live, key)
		s.files -= len(h.Files)
	}
	return h
}

// park moves a bundle. It may be asked for again by a client that got no answer, so it
// is done when the identifier is parked.
func (s *store) park(key, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parked[id] != nil {
		return nil
	}
	h := s.live[key]
	if h == nil {
		return ErrNotFound
	}
	h.Parked = id
	delete(s.live, key)
	s.parked[id] = h
	return nil
}

// list says what there is, sorted, live bundles first.
func (s *store) list() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make([]Entry, 0, len(s.live)+len(s.parked))
	for _, m := range []map[string]*held{s.live, s.parked} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			h := m[k]
			entries = append(entries, Entry{h.Key, h.Label, h.Parked, bundleMessage(opEntry, &h.Bundle).names})
		}
	}
	return entries
}

// count says how many bundles there are.
func (s *store) count() (live, parked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live), len(s.parked)
}

// close ends a store that is empty, and says whether it was. A put comes before it, and
// the store stays, or after it, and fails.
func (s *store) close() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.live)+len(s.parked) == 0 {
		s.closed = true
	}
	return s.closed
}

// has says whether there is a bundle.
func (s *store) has(p place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookup(p.key, p.id) != nil
}

// forget closes everything, parked bundles only if that is safe. It takes nothing any
// more.
func (s *store) forget(parkedToo bool) {
	s.mu.Lock()
	s.closed = true
	all := []map[string]*held{s.live}
	s.live = nil
	if parkedToo {
		all = append(all, s.parked)
		s.parked = nil
	}
	s.mu.Unlock()
	for _, m := range all {
		for _, h := range m {
			s.release(h)
		}
	}
}
