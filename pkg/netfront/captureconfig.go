package netfront

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

const (
	// captureBuffer is a recorder's room if nothing else is said: some service calls of a
	// worker with full batches.
	captureBuffer    = 2 << 20
	captureBufferMin = 256 << 10 // four of the largest frames
	captureBufferMax = 64 << 20
)

// Direction is that of a ring.
type Direction uint8

// Directions.
const (
	Tx Direction = iota // from the guest to the backend
	Rx                  // from the backend to the guest
)

func (d Direction) String() string {
	if d == Tx {
		return "tx"
	}
	return "rx"
}

// CaptureConfig says what is captured. The zero value is everything.
type CaptureConfig struct {
	Queues     []int       // numbers; nil: all
	Directions []Direction // nil: both
	SnapLen    int         // bytes of each frame, at most; 0: all
	// Match tells whether a frame is wanted, by its first bytes and its length. It is
	// called by the goroutine of [Device.Capture]. Nil: every frame is.
	Match func(data []byte, length int) bool
	// MatchLen is how many bytes Match must see at least, if SnapLen is less; 0: all.
	MatchLen int
	// Buffer is the room for frames on their way from one queue and direction to the
	// sink in bytes, rounded up to a power of two; 0: 2 MiB.
	Buffer int
}

// Validate checks the values.
func (c *CaptureConfig) Validate() error {
	switch {
	case c.SnapLen < 0 || c.SnapLen > netif.MaxTxSize:
		return fmt.Errorf("snaplen %d: expected 1 to %d bytes, or 0 for whole frames", c.SnapLen, netif.MaxTxSize)
	case c.Buffer != 0 && (c.Buffer < captureBufferMin || c.Buffer > captureBufferMax):
		return fmt.Errorf("buffer %d: expected %d to %d bytes, or 0 for %d", c.Buffer, captureBufferMin, captureBufferMax, captureBuffer)
	}
	for _, n := range c.Queues {
		if n < 0 || n >= maxQueues {
			return fmt.Errorf("queue %d: expected 0 to %d", n, maxQueues-1)
		}
	}
	return nil
}

// copied is how many bytes of a frame leave its queue.
func (c *CaptureConfig) copied() int {
	switch {
	case c.SnapLen == 0, c.Match != nil && c.MatchLen == 0:
		return netif.MaxTxSize
	case c.Match != nil:
		return max(c.SnapLen, c.MatchLen)
	}
	return c.SnapLen
}

// room is a recorder's size: Buffer as a power of two.
func (c *CaptureConfig) room() int {
	if c.Buffer == 0 {
		return captureBuffer
	}
	return 1 << bits.Len(uint(c.Buffer-1))
}

// Wants tells whether the ring is to be captured.
func (c *CaptureConfig) Wants(queue int, d Direction) bool {
	return (c.Queues == nil || slices.Contains(c.Queues, queue)) && (c.Directions == nil || slices.Contains(c.Directions, d))
}
