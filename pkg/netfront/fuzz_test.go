package netfront

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// fuzzRing writes what the fuzzer made into a ring's page, as a backend can at any
// moment: slots, and both of its words.
func fuzzRing(page, slots []byte, produced, event uint32) {
	copy(page[64:], slots)
	binary.LittleEndian.PutUint32(page[4:], event)
	binary.LittleEndian.PutUint32(page[8:], produced)
}

// A backend that writes anything into the rx ring and into its pages cannot make
// the queue panic, loop, or lose count of a map.
func FuzzRxRing(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 60}, []byte{0x45}, uint32(1), uint32(0))
	f.Add([]byte{0, 0, 0, 0, 8, 0, 100, 0, 1, 1, 0, 0, 1, 0, 0, 0}, tcpFrame(100), uint32(2), uint32(5))
	f.Add([]byte{0, 0, 0, 0, 2, 0, 0, 4, 0, 0, 0, 0, 0, 0, 60, 0}, tcpFrame(1024), uint32(2), uint32(1))
	f.Fuzz(func(t *testing.T, slots, data []byte, produced, event uint32) {
		r := newRxRig(&testing.T{}, fullMaps)
		defer r.q.close()
		r.q.out = discard{}
		ring := r.ringPage()
		for _, p := range r.grants.pages {
			copy(p, data)
		}
		clear(ring[64:])
		binary.LittleEndian.PutUint32(ring[0:], fullMaps)
		fuzzRing(ring, slots, produced, event)
		for range 4 {
			more, err := r.q.service()
			if err != nil && !errors.Is(err, ErrViolation) {
				t.Fatal(err)
			}
			if cerr := r.q.pool.Check(); cerr != nil {
				t.Fatal(cerr)
			}
			if err != nil || !more {
				return
			}
		}
	})
}

// The same for the tx ring, with requests out.
func FuzzTxRing(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, uint32(2), uint32(0))
	f.Add([]byte{255, 255, 1, 0}, uint32(1), uint32(9))
	f.Fuzz(func(t *testing.T, slots []byte, produced, event uint32) {
		r := newTxRig(&testing.T{}, AllFeatures(), 64)
		defer r.q.close()
		for range 100 {
			r.feed(tap.VirtioHeader{}, make([]byte, 100))
		}
		for range 4 {
			if _, err := r.q.service(); err != nil {
				if !errors.Is(err, ErrViolation) {
					t.Fatal(err)
				}
				break
			}
			fuzzRing(r.ringPage(), slots, produced, event)
		}
		if err := r.q.pool.Check(); err != nil {
			t.Fatal(err)
		}
	})
}
