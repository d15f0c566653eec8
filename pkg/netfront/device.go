package netfront

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

const (
	// openTimeout bounds what Open asks of xenstore.
	openTimeout = 10 * time.Second
	// stopTimeout bounds the farewell to a backend; one that is alive needs a
	// fraction of it.
	stopTimeout = 400 * time.Millisecond
	// farewellTimeout is the same for the last connection of a Device.
	farewellTimeout = 2 * time.Second
	// Back-off between connections: doubled after each one that did not last.
	backoffMin = 100 * time.Millisecond
	backoffMax = 30 * time.Second
	// lasting is how long a connection must live for the back-off to start anew.
	lasting = 30 * time.Second
)

// Device is one vif on one TAP. Run serves it; Status may be called by any goroutine
// at any time.
type Device struct {
	cfg   Config
	guest *xen.Guest
	log   *zap.Logger
	link  *tap.Device
	id    identity
	set   settings // Run's goroutine's

	reportEvery time.Duration                                // see the constant; another one in tests
	everySecond func() (ticks <-chan time.Time, stop func()) // another one in tests

	granted  *granted // Run's goroutine's; nil: no pages
	left     *legacy  // by another process; nil once it was looked at
	leftLink bool     // the TAP goes to the next process
	// immortals are event files from before a restore, for which there is no holder.
	immortals []xen.EventFile

	plug plugWatch // Run's goroutine's

	retry    atomic.Bool   // see Retry
	retried  chan struct{} // wakes Run's goroutine for it
	forgiven int           // pages that were left behind before the last Retry; Run's goroutine's
	maxLeft  int           // see the constant; another one in tests

	announce announcer // Run's goroutine's
	seen     tap.State // the TAP when it was last looked at; Run's goroutine's
	noUring  string    // why there is no io_uring, as it was said last; Run's goroutine's

	disabled bool // by the toolstack, as far as it was seen; Run's goroutine's

	clock   seconds    // Run's goroutine's
	dumping sync.Mutex // held while workers are asked for a dump

	mu      sync.Mutex
	view    view     // what Status shows; written by Run's goroutine
	capture *capture // nil: none goes on
	closed  bool     // no capture may begin
}

// Open finds the vif in xenstore and creates its TAP, with the vif's address and
// MTU, up and without carrier; or takes over the one that the Holder has, as it is. It does not wait for a backend: a guest must boot
// when its driver domain is down. It fails with [ErrNoVif] if the toolstack gave the
// guest no such vif. After an error nothing is left.
func Open(ctx context.Context, guest *xen.Guest, cfg Config) (*Device, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	a, err := findVif(ctx, guest.Store, cfg.DevID)
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(ctx, guest.Store, a)
	if err != nil {
		return nil, err
	}
	d := &Device{cfg: cfg, guest: guest, id: id, reportEvery: reportEvery, everySecond: everySecond,
		retried: make(chan struct{}, 1), maxLeft: maxLeft}
	d.log = cfg.Logger.With(zap.Int("vif", cfg.DevID))
	if err := d.openLink(); err != nil {
		return nil, err
	}
	d.log = WithTAP(d.log, d.link.Name(), d.link.Name)
	d.sayRefused(identity{}, id)
	d.announce = newAnnouncer(d)
	d.seen = tap.State{Name: d.link.Name()}
	d.sayUring()
	d.view = view{since: time.Now(), state: netif.StateInitialising, address: a, granted: d.view.granted, violations: d.set.Standing.Violations}
	return d, nil
}

// LostByClose tells whether the backend that the Device is connected to removes the vif when
// that is closed, as Mirage's does, so that no frontend can have it before the toolstack has
// attached it anew. With [ErrLeave] it stays. Any goroutine may call it.
func (d *Device) LostByClose() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.view.pairs != nil && d.view.agreed.removes
}

// sayUring says that io_uring is refused, or no more: the kernel's setting and a sandbox can
// change while the TAP is served.
func (d *Device) sayUring() {
	err := d.link.UringError()
	why := ""
	if err != nil {
		why = err.Error()
	}
	switch {
	case why == d.noUring:
	case err != nil:
		d.log.Info("io_uring is not used: a system call for each frame", problem(err), event(EventNoUring))
	default:
		d.log.Info("io_uring is used again", event(EventNoUring))
	}
	d.noUring = why
}

// newLink creates the TAP as the kernel's netfront would show the vif. It has all of its queues
// from the start: for one that is moved to another network namespace, as a container's, none
// can be opened any more by a process that may not follow it there.
func newLink(cfg Config, id identity) (*tap.Device, error) {
	name := cfg.TAPName
	if name == "" {
		name = "xnf%d"
	}
	link, err := tap.Create(tap.Config{Name: name, MAC: id.mac, MTU: cfg.mtu(id), TxQueueLen: cfg.TxQueueLen, Privileged: cfg.Privileged})
	if err != nil {
		return nil, err
	}
	if err = link.SetCarrier(false); err == nil {
		_, err = link.SetQueues(cfg.Queues)
	}
	if err == nil {
		err = link.SetUp(true)
	}
	if err != nil {
		return nil, errors.Join(err, link.Close())
	}
	return link, nil
}

// Name is the TAP's name.
func (d *Device) Name() string { return d.link.Name() }

// Close removes the TAP, unless Run left it to the next process. Run must have
// returned, or not been called.
func (d *Device) Close() error {
	if d.leftLink {
		d.closeCapture("the vif is left to the next process")
	} else {
		d.closeCapture("the vif is not served any more")
	}
	err := d.left.close()
	if d.granted != nil { // Run was not called
		err = errors.Join(err, d.granted.close())
	}
	// What was never looked at is for a process that gets further.
	leave := d.leftLink || d.left != nil
	d.left = nil
	if leave {
		return errors.Join(err, d.link.Release())
	}
	d.forget(keyTAP)
	return errors.Join(err, d.link.Close())
}

// Run connects to the backend and carries frames until ctx ends, then closes the vif
// and leaves it free for another frontend, with every grant and event channel freed,
// and returns nil. Whatever
// ends a connection before that (a backend that goes away, restarts or breaks the
// protocol, a vif that is detached) leads to the next one, at growing intervals;
// the TAP stays. With [ErrLeave] as the cause of ctx's end, and a Holder, everything is
// left as it is for the next process; and the first connection is that of the process
// before, if the holder has it. It returns an error only if xenstore is lost, or the TAP: somebody
// else has removed it.
func (d *Device) Run(ctx context.Context) error {
	reporting, stopReporting := context.WithCancelCause(ctx)
	reported := d.report(reporting)
	defer func() {
		stopReporting(context.Cause(ctx))
		reported()
	}()
	defer d.endGranted(ctx)
	defer d.plug.close()
	backoff := backoffMin
	for ctx.Err() == nil {
		began := time.Now()
		d.look()
		err := d.connection(ctx)
		if ctx.Err() != nil {
			break
		}
		if _, serr := d.link.State(); errors.Is(serr, tap.ErrLinkGone) {
			err = fmt.Errorf("somebody removed the TAP: %w", serr)
		}
		if errors.Is(err, xenstore.ErrClosed) || errors.Is(err, tap.ErrLinkGone) {
			d.setState(netif.StateClosed, err)
			return fmt.Errorf("vif %d: %w", d.cfg.DevID, err)
		}
		if errors.Is(err, ErrViolation) {
			d.holdAgainst()
		}
		// To detach and attach a vif is the toolstack's doing: no sign of a backend that
		// cannot keep a connection.
		if time.Since(began) > lasting || d.plug.changed() {
			backoff = backoffMin
		}
		backoff = max(backoff, d.set.Standing.floor())
		wait := backoff/2 + rand.N(backoff/2+1)
		if why, _ := d.whyOff(); why != "" && errors.Is(err, ErrViolation) {
			wait = 0 // it is off at once
		}
		d.setState(netif.StateClosed, err)
		why := cause(err)
		kind, level := ending(why)
		fields := []zap.Field{
			zap.Uint16("backend", uint16(d.view.address.domid)), // which this goroutine writes
			zap.String("cause", why), problem(err), zap.Duration("retry_in", wait), event(kind),
		}
		if p := (*panicError)(nil); errors.As(err, &p) {
			fields = append(fields, zap.String("stack", p.stack))
		}
		d.setEnded(why)
		d.log.Log(level, "disconnected", fields...)
		backoff = min(2*backoff, backoffMax)
		if d.pause(ctx, wait) {
			backoff = backoffMin
		}
	}
	if leaving(ctx) && d.cfg.Holder != nil {
		d.leftLink = true
		return nil
	}
	d.setState(netif.StateClosed, errors.New("stopped"))
	return nil
}

// cause names what ended a connection in one word, for logs and metrics.
func cause(err error) string {
	if p := (*panicError)(nil); errors.As(err, &p) {
		return "panic"
	}
	switch {
	case errors.Is(err, ErrViolation):
		return "violation"
	case errors.Is(err, errRestored):
		return "restored"
	case errors.Is(err, errMoved), errors.Is(err, ErrNoVif), errors.Is(err, errUnplugged):
		return "detached"
	case errors.Is(err, errBackendClosed):
		return "backend-closed"
	case errors.Is(err, errBeganAgain):
		return "backend-restarted"
	case errors.Is(err, errNoProgress):
		return "no-progress"
	case errors.Is(err, errStalled):
		return "stalled"
	case errors.Is(err, ErrBudget), errors.Is(err, xen.ErrGrantLimit):
		return "grants"
	}
	return "error"
}
