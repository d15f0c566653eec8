package netfront

import (
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// CaptureSink takes what is captured. Its methods are called by the goroutine of
// [Device.Capture], one at a time; an error ends the capture. A sink that is slow holds up
// nobody: frames that find no room meanwhile are dropped and counted.
type CaptureSink interface {
	// Connection says that rings begin to be captured: those that there are at the
	// beginning, if any, and those of each connection of the vif from then on.
	Connection(c CaptureConnection) error
	// Frame gets one frame. It and what it refers to are valid until Frame returns.
	// Frames of one ring come in its order, but tx frames when they are answered.
	Frame(f *CapturedFrame) error
	// Idle says that nothing more waits at the moment, at first when the capture begins.
	Idle() error
}

// CaptureConnection is a connection whose rings are captured.
type CaptureConnection struct {
	Number  uint64    // counted from the Device's beginning
	Joined  time.Time // since when it is captured
	Backend string    // path of its directory
	Queues  int       // of the vif
	// Before says why the last connection ended, if this one began during the capture.
	Before string
}

// CaptureFigures are of one queue and direction, over all connections of the capture.
type CaptureFigures struct {
	Queue     int
	Direction Direction
	Frames    uint64 // that came by, Dropped among them
	Dropped   uint64 // that found no room; the others were shown to Match
	Matched   uint64 // that went to the sink
}

// CaptureResult is what a capture was.
type CaptureResult struct {
	Figures []CaptureFigures // in the order in which the rings were met
	Ended   string           // why, if neither the context nor the sink has ended it
}

// CapturedFrame is a frame that crossed a ring, or was to.
type CapturedFrame struct {
	Time       time.Time // tx: when it was put; rx: when it was taken
	Queue      int
	Direction  Direction
	Connection uint64 // number of the CaptureConnection
	RingSize   uint32 // slots
	// Slots are the frame's ring slots, in the ring's order. A tx frame that was lost here
	// has none.
	Slots  []CapturedSlot
	Length int
	// Data is the beginning of the frame as it is on the ring: what the flags say of its
	// checksums and segments is still to be done.
	Data []byte
	// Lost is the counter that the frame's loss here was counted under, like
	// "drop_malformed"; empty if it was handed on.
	Lost string
	// Missed is how many frames of the ring found no room and are missing before this one,
	// at most 65535.
	Missed int
	// Answered is when the last response of a tx frame was taken; zero if one is missing.
	Answered time.Time
}

// CapturedSlot is one slot of a frame.
type CapturedSlot struct {
	Index  uint32 // of the request or response; its place on the ring is Index modulo RingSize
	ID     uint16
	Flags  uint16 // netif.Tx... or netif.Rx...
	Offset uint16 // of the data in its page
	// Size is in bytes. In the first slot of a tx frame it is the frame's; on rx it is the
	// response's status: below zero it is an error.
	Size int
	// IsExtra says that the slot has an Extra, instead of all that is above but Index.
	IsExtra bool
	Extra   netif.Extra
	// Status is that of the response to a tx slot, if it has come.
	Status   int16
	Answered bool
}
