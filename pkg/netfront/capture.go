package netfront

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// responseTimeout is how long a tx frame waits in a capture for its responses.
const responseTimeout = time.Second

// ErrCapturing says that another capture of the Device goes on.
var ErrCapturing = errors.New("it is being captured already")

var errClosed = errors.New("the vif is closed")

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
	defer d.endCapture(c, "") // a sink can fail in any way
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
