//go:build race

package ring

import "sync/atomic"

// store is a swap where the race detector looks on, whose stores are releases and nothing
// more: each side then misses now and then what the other one has just written, and both
// wait for an event. Both sides are in one process there, so nobody keeps the swap from
// ending.
func store(word *uint32, v uint32) { atomic.SwapUint32(word, v) }
