//go:build !race

package ring

import "sync/atomic"

// store writes a word of the header, and orders it after every access before and before
// every atomic load that follows: an XCHG on amd64; an STLR on arm64, which an LDAR, Go's
// atomic load, does not overtake (release and acquire there are RCsc). So who stores a
// producer index and then reads the other side's event index, or the other way round,
// cannot miss what the other side, with a full barrier in the same place, stored before
// it read: of the two, one sees the other's.
//
// A swap would order no less. But without the atomic instructions of ARMv8.1 (LSE) it is
// a loop of load-exclusive and store-exclusive, and the other side, which can write the
// page at any rate, could keep it from ending.
func store(word *uint32, v uint32) { atomic.StoreUint32(word, v) }
