//go:build !race

// In a race build unix.Read and unix.Write move their buffers to the heap.

package netback

import (
	"runtime"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// The workers allocate nothing for a frame, whatever its kind.
func TestNoAllocationPerFrame(t *testing.T) {
	r, w := newTAPRig(t, allFeatures())
	q := r.queues[0]
	q.post(256)
	small, large := frameOf(60, 1), packet(4, protoTCP, 60000)
	sink := make([]byte, 70000)
	round := func() {
		for range 8 {
			q.put(small, 4096, 0)
			q.put(large, 4096, netif.TxCsumBlank, netif.NewGSO(1448, netif.GSOTCPv4))
			w.send(tap.VirtioHeader{}, small)
			w.send(gsoHeader(4, 1448), large)
			q.push()
			for range 2 {
				w.read(sink)
			}
			q.txResponses(1 + 16)
			q.rxSlots(1 + 16)
			q.post(17)
		}
	}
	for range 3 { // every page has been seen
		round()
	}
	before := r.vif.Stats()
	allocs := workerAllocs(round)
	after := r.vif.Stats()
	frames := after.TxFrames + after.RxFrames - before.TxFrames - before.RxFrames
	if frames != 32 {
		t.Fatalf("%d frames", frames)
	}
	if allocs > 0 {
		t.Errorf("%d allocations in the workers for %d frames", allocs, frames)
	}
}

// workerAllocs runs f and counts the allocations that this package's workers make
// meanwhile, by the allocation profile.
func workerAllocs(f func()) int64 {
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 1
	defer func() { runtime.MemProfileRate = rate }()
	count := func() (n int64) {
		runtime.GC() // the profile is as of the last collection but one
		runtime.GC()
		records := make([]runtime.MemProfileRecord, 10000)
		k, _ := runtime.MemProfile(records, true)
		for _, rec := range records[:k] {
			frames := runtime.CallersFrames(rec.Stack())
			for {
				fr, more := frames.Next()
				if isWorker(fr.Function) {
					n += rec.AllocObjects
				}
				if !more {
					break
				}
			}
		}
		return n
	}
	before := count()
	f()
	return count() - before
}

func isWorker(function string) bool {
	const pkg = "github.com/xnetfrontd/xnetfrontd/internal/netback."
	return function == pkg+"(*txWorker).loop" || function == pkg+"(*rxWorker).loop"
}
