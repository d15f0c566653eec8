package netfront

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

const (
	// captureBuffer is a recorder's room if nothing else is said: some service calls of a
	// worker with full batches.
	captureBuffer    = 2 << 20
	captureBufferMin = 256 << 10 // four of the largest frames
	captureBufferMax = 64 << 20
	// responseTimeout is how long a tx frame waits in a capture for its responses.
	responseTimeout = time.Second
)

// ErrCapturing says that another capture of the Device goes on.
var ErrCapturing = errors.New("it is being captured already")

var errClosed = errors.New("the vif is closed")

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

// capture is what Device and Capture share while one goes on.
type capture struct {
	config CaptureConfig
	wake   chan struct{}
	closed chan struct{} // the Device is at its end

	mu     sync.Mutex
	queues []*captureQueue // that were not read to their end, those of a connection behind each other
	why    string          // closed
}

// Capture hands the frames that cross the vif's rings to sink, with what the rings say of
// them, until ctx ends, the Device is closed or the sink fails, whose error it returns.
// Any goroutine may call it, before Run, too. It goes on over the end of a connection, with
// the rings of the next. Frames that are lost here or at the backend are captured, too. A
// tx frame comes when all its responses have, or after a second without; what has no
// response at the end of the capture or of the connection comes then.
//
// One capture at a time: another one gets [ErrCapturing].
func (d *Device) Capture(ctx context.Context, config CaptureConfig, sink CaptureSink) (CaptureResult, error) {
	if err := config.Validate(); err != nil {
		return CaptureResult{}, err
	}
	c := &capture{config: config, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	if err := d.beginCapture(c); err != nil {
		return CaptureResult{}, err
	}
	r := captureReader{capture: c, sink: sink}
	tick := time.NewTicker(responseTimeout / 4)
	defer tick.Stop()
	for {
		last := false
		select {
		case <-ctx.Done():
			last = true
		case <-c.closed:
			last = true
		case <-c.wake:
		case <-tick.C:
		}
		if last {
			d.endCapture(c, "")
		}
		if err := r.read(time.Now()); err != nil {
			d.endCapture(c, "")
			return r.result(), err
		}
		if last {
			return r.result(), nil
		}
	}
}

// beginCapture makes c the Device's capture.
func (d *Device) beginCapture(c *capture) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return errClosed
	case d.capture != nil:
		return ErrCapturing
	}
	d.capture = c
	c.join(&d.view, nil)
	c.poke()
	return nil
}

// endCapture ends c, for the reason why, if it goes on.
func (d *Device) endCapture(c *capture, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c == nil || d.capture != c {
		return
	}
	d.capture = nil
	c.leave(d.view.pairs)
	c.mu.Lock()
	c.why = why
	c.mu.Unlock()
	close(c.closed)
}

// closeCapture ends the capture that there is, and lets no other begin.
func (d *Device) closeCapture(why string) {
	d.mu.Lock()
	c := d.capture
	d.closed = true
	d.mu.Unlock()
	d.endCapture(c, why)
}

// join captures the rings of the connection that stands or begins, and says why the last
// one has ended.
func (c *capture) join(v *view, before error) {
	if c == nil || len(v.pairs) == 0 {
		return
	}
	n := v.connects
	if v.state != netif.StateConnected {
		n++ // it is not counted yet
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	connection := &CaptureConnection{Number: n, Joined: time.Now(), Backend: v.address.backend, Queues: len(v.pairs)}
	if before != nil {
		connection.Before = before.Error()
	}
	for _, p := range v.pairs {
		c.joinRing(&p.tx.capture, &captureQueue{number: p.number, dir: Tx, connection: connection, ringSize: p.tx.ring.Size()})
		c.joinRing(&p.rx.capture, &captureQueue{number: p.number, dir: Rx, connection: connection, ringSize: p.rx.ring.Size()})
	}
	c.poke()
}

// joinRing captures one ring, if it is wanted. The lock is held.
func (c *capture) joinRing(at *atomic.Pointer[recorder], q *captureQueue) {
	if !c.config.Wants(q.number, q.dir) {
		return
	}
	q.rec = newRecorder(q.dir == Tx, c.config.copied(), c.config.room(), c.wake)
	c.queues = append(c.queues, q)
	at.Store(q.rec)
}

// leave ends the capture of the rings that there are. What their workers have published is
// still read.
func (c *capture) leave(pairs []*pair) {
	if c == nil {
		return
	}
	for _, p := range pairs {
		p.tx.capture.Store(nil)
		p.rx.capture.Store(nil)
		for _, w := range p.workers {
			w.tell(0) // so that it lets go of the recorders
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range c.queues {
		q.ended = true
	}
	c.poke()
}

func (c *capture) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
