package busdma

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// naiveRun is highestRun bit by bit.
func naiveRun(s *PoolState, n int) (int, bool) {
	for first := MaxMaps - n; first >= 0; first-- {
		run := 0
		for run < n && s.free[(first+run)/64]>>((first+run)%64)&1 == 1 {
			run++
		}
		if run == n {
			return first, true
		}
	}
	return 0, false
}

func TestRunIsTheHighest(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var s PoolState
	for range 20000 {
		// Stretches of free and taken maps, from single bits to whole words.
		s = PoolState{}
		scale := 1 + random.IntN(90)
		for i := 0; i < MaxMaps; {
			n := min(1+random.IntN(scale), MaxMaps-i)
			if random.IntN(3) != 0 {
				s.setFree(i, n)
			}
			i += n
		}
		n := 1 + random.IntN(MaxMaps)
		if random.IntN(2) == 0 {
			n = 1 + random.IntN(20)
		}
		first, ok := s.highestRun(n)
		if wantFirst, wantOK := naiveRun(&s, n); first != wantFirst || ok != wantOK {
			t.Fatalf("run of %d in %x: %d %t, want %d %t", n, s.free, first, ok, wantFirst, wantOK)
		}
		if ok {
			s.clearFree(first, n)
			if again, ok := s.highestRun(n); ok && again+n > first && again < first+n {
				t.Fatalf("run of %d at %d was given out twice", n, first)
			}
		}
	}
}

func TestBitmapSpansWords(t *testing.T) {
	for first := range MaxMaps {
		for n := 0; first+n <= MaxMaps; n++ {
			var s PoolState
			s.setFree(first, n)
			for i := range MaxMaps {
				if want := i >= first && i < first+n; (s.free[i/64]>>(i%64)&1 == 1) != want {
					t.Fatalf("%d bits from %d: bit %d is %t", n, first, i, !want)
				}
			}
			s.clearFree(first, n)
			if s != (PoolState{}) {
				t.Fatalf("%d bits from %d: not cleared", n, first)
			}
		}
	}
}

func TestCheckFindsALostMap(t *testing.T) {
	var good PoolState
	good.fill(70)
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for name, harm := range map[string]func(s *PoolState){
		"taken, and in the bitmap":      func(s *PoolState) { s.states[3] = Taken },
		"taken, in the bitmap, counted": func(s *PoolState) { s.states[3] = Taken; s.count[Pooled]--; s.count[Taken]++ },
		"pooled, and not in the bitmap": func(s *PoolState) { s.clearFree(69, 1) },
		"in the bitmap beyond the last": func(s *PoolState) { s.setFree(70, 1) },
		"a state beyond the last":       func(s *PoolState) { s.states[70] = Loaded },
		"no such state":                 func(s *PoolState) { s.states[0] = numStates },
		"counted twice":                 func(s *PoolState) { s.count[Quarantined]++ },
		"counted in no state":           func(s *PoolState) { s.count[maxStates-1]++ },
		"created after the fact":        func(s *PoolState) { s.created++ },
		"created more than there can":   func(s *PoolState) { s.created = MaxMaps + 1 },
	} {
		s := good
		harm(&s)
		if err := s.check(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzAnotherProcessStateIsTrusted gives a pool a state of any bytes. What is adopted
// must be coherent, and no operation on it may panic.
func FuzzAnotherProcessStateIsTrusted(f *testing.F) {
	f.Add(uint64(0xff), uint32(8), uint32(8), uint32(0), []byte{0, 0, 0, 0, 0, 0, 0, 0})
	f.Add(uint64(0x06), uint32(4), uint32(2), uint32(2), []byte{3, 0, 0, 3})
	f.Fuzz(func(t *testing.T, free uint64, created, pooled, inFlight uint32, states []byte) {
		var s PoolState
		s.free[0], s.created = free, created
		s.count[Pooled], s.count[InFlight] = pooled, inFlight
		for i := range min(len(states), MaxMaps) {
			s.states[i] = State(states[i])
		}
		if s.check() != nil {
			return
		}
		sum := uint32(0)
		for _, n := range s.count {
			sum += n
		}
		if sum != s.created {
			t.Fatalf("%d maps in all states, %d created", sum, s.created)
		}
		if i, ok := s.lowest(); ok && (i >= int(s.created) || s.states[i] != Pooled) {
			t.Fatalf("map %d of %d is %v and pooled", i, s.created, s.states[i])
		}
	})
}
