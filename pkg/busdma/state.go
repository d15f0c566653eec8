package busdma

import (
	"fmt"
	"math/bits"
)

// MaxMaps is the most maps a pool can have: the slots of one ring.
const MaxMaps = 256

const (
	wordBits  = 64
	maxStates = 8 // a power of two ≥ numStates, so that no index needs a check
)

// PoolState is all that a [Pool] would have to know about its maps to go on in
// another process: plain numbers without Go pointers, so that it may lie in a
// shared memory file. The zero value is a state not in use. Nobody but the pool
// that has it may change it.
//
// A map has its place in it by its page's number, except that a map of
// [Slab.NewMap] has a state of its own.
type PoolState struct {
	free    [MaxMaps / wordBits]uint64 // bit i%64 of word i/64: map i is Pooled
	states  [MaxMaps]State
	count   [maxStates]uint32 // maps in each State
	created uint32
}

// fill makes it the state of n maps, all pooled.
func (s *PoolState) fill(n int) {
	*s = PoolState{created: uint32(n)}
	s.count[Pooled] = uint32(n)
	s.setFree(0, n)
}

// setFree and clearFree set and clear n bits of the bitmap.
func (s *PoolState) setFree(first, n int) {
	for i := first; i < first+n; {
		word, mask, next := span(i, first+n)
		s.free[word] |= mask
		i = next
	}
}

func (s *PoolState) clearFree(first, n int) {
	for i := first; i < first+n; {
		word, mask, next := span(i, first+n)
		s.free[word] &^= mask
		i = next
	}
}

// span is the part of the bits [i, end) that lies in i's word, and where to go on.
func span(i, end int) (word int, mask uint64, next int) {
	word = i / wordBits
	next = min(end, (word+1)*wordBits)
	mask = ^uint64(0) >> (wordBits - (next - i)) << (i % wordBits)
	return word & (MaxMaps/wordBits - 1), mask, next
}

// lowest finds the first pooled map.
func (s *PoolState) lowest() (int, bool) {
	for w := range s.free { // not by value, which would copy the bitmap
		if word := s.free[w]; word != 0 {
			return w*wordBits + bits.TrailingZeros64(word), true
		}
	}
	return 0, false
}

// highestRun finds the last n pooled maps in a row. It goes from stretch to stretch
// of equal bits, not from bit to bit.
func (s *PoolState) highestRun(n int) (first int, ok bool) {
	run := 0 // pooled maps in a row, down to here
	for w := len(s.free) - 1; w >= 0; w-- {
		word := s.free[w]
		for left := wordBits; ; {
			// The shifts below fill with zeros, which end a stretch of ones by
			// themselves but not one of zeros.
			ones := bits.LeadingZeros64(^word)
			run += ones
			left -= ones
			if run >= n {
				return w*wordBits + left + run - n, true
			}
			if left == 0 {
				break // and the run may go on in the word below
			}
			run = 0
			word <<= ones
			zeros := bits.LeadingZeros64(word)
			if zeros >= left {
				break
			}
			word <<= zeros
			left -= zeros
		}
	}
	return 0, false
}

// plausible checks what must be so at every instruction: each map has a state, and
// none is there beyond the last.
func (s *PoolState) plausible() error {
	for i, state := range s.states {
		switch {
		case i >= int(s.created) && state != 0:
			return fmt.Errorf("map %d of %d is %v: %w", i, s.created, state, ErrCorrupt)
		case state >= numStates:
			return fmt.Errorf("map %d is in %v: %w", i, state, ErrCorrupt)
		}
	}
	return nil
}

// recover makes each map in flight, in quarantine or pooled, and the sums anew.
func (s *PoolState) recover(inFlight func(i int, was State) bool) {
	s.free, s.count = [MaxMaps / wordBits]uint64{}, [maxStates]uint32{}
	for i := range int(s.created) {
		was := s.states[i]
		switch {
		case was == Quarantined:
		case inFlight(i, was):
			s.states[i] = InFlight
		default:
			s.states[i] = Pooled
			s.setFree(i, 1)
		}
		s.count[s.states[i]]++
	}
}

// check recomputes everything from the states of the maps.
func (s *PoolState) check() error {
	if s.created > MaxMaps {
		return fmt.Errorf("%d maps, of %d at most: %w", s.created, MaxMaps, ErrCorrupt)
	}
	var want PoolState
	want.created = s.created
	if err := s.plausible(); err != nil {
		return err
	}
	for i := range int(s.created) {
		if s.states[i] == Pooled {
			want.setFree(i, 1)
		}
		want.count[s.states[i]]++
	}
	if s.free != want.free {
		return fmt.Errorf("bitmap %x, by the states of the maps %x: %w", s.free, want.free, ErrCorrupt)
	}
	if s.count != want.count {
		return fmt.Errorf("counts %d, by the states of the maps %d: %w", s.count, want.count, ErrCorrupt)
	}
	return nil
}
