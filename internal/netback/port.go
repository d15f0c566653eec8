package netback

import (
	"net"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// VifID names a vif on a backend domain.
type VifID struct {
	Frontend xen.DomID
	Device   int
}

// VifInfo is what the toolstack wrote about a vif.
type VifInfo struct {
	VifID
	Name string // vif<domid>.<devid>, or the vifname node
	MAC  net.HardwareAddr
	MTU  int // bytes; 1500 if it is not there
}

// Port is where a vif's frames go on the backend's side: what vifX.Y is to Linux.
// One goroutine at a time calls its methods.
type Port interface {
	// Attach opens n queues for a frontend that takes what takes says. Frames that
	// are not taken as they are may still be read: the vif then segments them and
	// finishes their checksums. The queues are closed before the next Attach.
	Attach(n int, takes Takes) ([]PortQueue, error)
	// Detach closes the queues, whose workers have stopped.
	Detach() error
	// SetCarrier tells whether the guest takes frames.
	SetCarrier(on bool) error
	Close() error
}

// PortQueue is one queue of a port. Read and ReadFrame belong to one goroutine, Write
// to another. Frames have the virtio header of pkg/tap in front.
type PortQueue interface {
	// FD is readable when frames wait.
	FD() int
	// Read reads up to len(bufs) frames, one into each buffer, and their sizes into
	// sizes. Fewer than asked for means that no more wait; 0 is none. A frame that is
	// larger than its buffer is cut.
	Read(bufs [][]byte, sizes []int) (int, error)
	// ReadFrame reads one frame, scattered over parts, and returns its size, 0 if
	// none waits.
	ReadFrame(parts [][]byte) (int, error)
	// Write takes frames in order. errs[i] tells what became of frames[i]. The parts
	// may be the guest's memory and are free again when it returns.
	Write(frames []Outgoing, errs []error)
}

// Outgoing is a frame on its way to a port.
type Outgoing struct {
	// Parts are the frame's pieces in order. The first begins with the virtio
	// header, and is private; the others are in the guest's pages.
	Parts [][]byte
	Flags uint16 // NETTXF_* of the first slot
	Slots int    // ring slots, extras included
}
