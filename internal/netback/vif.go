package netback

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"go.uber.org/zap"
)

// Vif is one virtual interface of the backend. Its exported methods may be called by
// any goroutine; the rest of it belongs to the goroutine that follows its xenstore
// directory.
type Vif struct {
	backend *Backend
	info    VifInfo
	options *options
	dir     string // the backend's directory
	front   string // the frontend's
	log     *zap.Logger
	faults  Faults
	mcast   mcastFilter
	calls   chan func(context.Context)
	pokes   chan struct{} // something below dir has changed
	gone    chan struct{} // closed at the end of the vif

	// What the frontend said at the last connect. Some of it, as in Linux, is never
	// reset before the vif is created anew.
	takes    Takes
	rxNotify bool

	state    netif.State // where the state machine is
	shown    netif.State // what was last written
	hotplug  bool        // state changes wait for the hotplug script
	ended    bool        // the device is to go
	removing bool        // of a backend with RemoveOnClose: it is Closed
	rate     string      // the rate node as last seen
	disabled atomic.Pointer[error]
	stalls   atomic.Int32 // queues whose guest gives no slots

	mu      sync.Mutex // guards what follows, for the exported methods
	port    Port
	queues  []*queue
	counts  []*counters // by queue index
	carrier bool
	states  []netif.State // all that were shown, in order
	changed chan struct{} // closed and replaced at each change of the above
}

// ErrGone says that the vif does not exist any more.
var ErrGone = errors.New("vif is gone")

// Info is what the toolstack wrote about the vif.
func (v *Vif) Info() VifInfo { return v.info }

// Faults is the vif's misbehaviour.
func (v *Vif) Faults() *Faults { return &v.faults }

// Fatal is the rule that the frontend broke, nil if it has broken none. It is one of
// the errors of this package (ErrCrossesPage, ...), wrapped. A vif that was disabled
// stays so until it is created anew: by the toolstack, or by [Vif.Rebind].
func (v *Vif) Fatal() error {
	if err := v.disabled.Load(); err != nil {
		return *err
	}
	return nil
}

// Disabled tells whether Fatal is not nil.
func (v *Vif) Disabled() bool { return v.disabled.Load() != nil }

// disable ends the vif's traffic for good (xenvif_fatal_tx_err).
func (v *Vif) disable(err error) {
	if !v.disabled.CompareAndSwap(nil, &err) {
		return
	}
	v.log.Error("fatal error; disabling device", zap.Error(err))
	v.mu.Lock()
	defer v.mu.Unlock()
	v.setCarrier(false)
	for _, q := range v.queues {
		q.wake()
	}
	v.signal()
}

// MemoryPort is the vif's port, if it is one; else nil.
func (v *Vif) MemoryPort() *MemoryPort {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, _ := v.port.(*MemoryPort)
	return p
}

// Stats adds up the counters of all queues since the vif was created.
func (v *Vif) Stats() Stats {
	v.mu.Lock()
	defer v.mu.Unlock()
	var s Stats
	for _, c := range v.counts {
		c.addTo(&s)
	}
	return s
}

func (v *Vif) countersOf(index int) *counters {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.counts) <= index {
		v.counts = append(v.counts, new(counters))
	}
	return v.counts[index]
}

// States are all states that the backend has shown, in order.
func (v *Vif) States() []netif.State {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]netif.State(nil), v.states...)
}

// Queues is how many queues are connected.
func (v *Vif) Queues() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.queues)
}

// WaitConnected waits until the frontend's rings are in use, and the state Connected
// was shown.
func (v *Vif) WaitConnected(ctx context.Context) error {
	return v.wait(ctx, func() bool {
		return len(v.queues) > 0 && len(v.states) > 0 && v.states[len(v.states)-1] == netif.StateConnected
	})
}

// WaitFatal waits until the frontend has broken a rule, and returns which.
func (v *Vif) WaitFatal(ctx context.Context) (error, error) {
	err := v.wait(ctx, func() bool { return v.Disabled() })
	return v.Fatal(), err
}

// Done is closed when the vif is gone.
func (v *Vif) Done() <-chan struct{} { return v.gone }

// wait blocks until cond, which is called with the lock held, is true.
func (v *Vif) wait(ctx context.Context, cond func() bool) error {
	for {
		v.mu.Lock()
		ok, changed := cond(), v.changed
		v.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-v.gone:
			return ErrGone
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// signal tells those in wait; the lock is held.
func (v *Vif) signal() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// Rebind takes the driver off the vif and puts it on again, as writing to the
// driver's unbind and bind files does: the frontend sees InitWait and Connected, and
// its rings go on where they are. What was fatal is forgotten.
func (v *Vif) Rebind(ctx context.Context) error {
	return v.call(ctx, func(ctx context.Context) error {
		v.remove(ctx)
		if err := v.probe(ctx); err != nil {
			return err
		}
		v.frontendChanged(ctx)
		return nil
	})
}

// ShowState writes a state without acting on it: a backend that has lost its mind.
func (v *Vif) ShowState(ctx context.Context, s netif.State) error {
	return v.call(ctx, func(ctx context.Context) error { return v.show(ctx, s) })
}

// call runs f in the vif's goroutine.
func (v *Vif) call(ctx context.Context, f func(context.Context) error) error {
	result := make(chan error, 1)
	select {
	case v.calls <- func(ctx context.Context) { result <- f(ctx) }:
		return <-result
	case <-v.gone:
		return ErrGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kick makes all workers look at their rings, as the kick of Linux's io_ring files.
func (v *Vif) Kick() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, q := range v.queues {
		q.wake()
	}
}

// Storm sends n events to the frontend on each of its channels, about nothing. As
// on Xen, those that come before the frontend has unmasked the port are one.
func (v *Vif) Storm(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, q := range v.queues {
		for range n {
			q.tx.events.Notify(q.tx.channel)
			if !q.shared {
				q.rx.events.Notify(q.rx.channel)
			}
		}
	}
}

// stall notes that a queue's guest gives no slots; with the first one the carrier
// goes (xenvif_queue_carrier_off).
func (v *Vif) stall() {
	if v.stalls.Add(1) == 1 {
		v.log.Info("guest rx stalled")
		v.mu.Lock()
		defer v.mu.Unlock()
		v.setCarrier(false)
	}
}

// unstall is the end of it; with the last one the carrier comes back.
func (v *Vif) unstall() {
	if v.stalls.Add(-1) == 0 {
		v.log.Info("guest rx ready")
		v.mu.Lock()
		defer v.mu.Unlock()
		v.setCarrier(len(v.queues) > 0 && !v.Disabled())
	}
}

// setCarrier tells the port; the lock is held.
func (v *Vif) setCarrier(on bool) {
	if v.carrier == on || v.port == nil {
		return
	}
	v.carrier = on
	if err := v.port.SetCarrier(on); err != nil {
		v.log.Warn("set carrier", zap.Bool("on", on), zap.Error(err))
	}
}

// drainTimeout is how long a frame waits for slots.
func (v *Vif) drainTimeout() time.Duration {
	if !v.rxNotify {
		return v.options.PollTimeout
	}
	return v.options.DrainTimeout
}

// stallTimeout is how long the guest may give no slots before the carrier goes; 0 is
// for ever.
func (v *Vif) stallTimeout() time.Duration {
	if !v.rxNotify {
		return 0
	}
	return v.options.StallTimeout
}

// IORing describes a queue's rings as Linux's debugfs file io_ring_qN does. The
// words are read one by one while the queue works.
func (v *Vif) IORing(index int) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if index < 0 || index >= len(v.queues) {
		return "", fmt.Errorf("queue %d: %w", index, ErrPort)
	}
	q := v.queues[index]
	tx, rx := q.tx.ring.Header(), q.rx.ring.Header()
	return fmt.Sprintf("Queue %d\nTX: req prod %d event %d, rsp prod %d event %d\nRX: req prod %d event %d, rsp prod %d event %d\n",
		index, tx.ReqProd, tx.ReqEvent, tx.RspProd, tx.RspEvent, rx.ReqProd, rx.ReqEvent, rx.RspProd, rx.RspEvent), nil
}

// chance tells whether an event of the probability p happens now.
func chance(p float64) bool { return p > 0 && rand.Float64() < p }
