package netfront

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

var (
	errBackendClosed = errors.New("the backend closed the vif")
	// errBeganAgain says that a backend which was bound anew does not go on with the rings.
	errBeganAgain = errors.New("the backend has begun at the rings' first slot again")
	errNoProgress = errors.New("the backend does not look at the tx ring")
)

// connection makes one connection and serves it to its end. The cause is the error;
// nothing of the connection is left when it returns.
func (d *Device) connection(ctx context.Context) (err error) {
	if done, err := d.takeOver(ctx); done {
		return err
	}
	a, err := d.find(ctx)
	if errors.Is(err, ErrNoVif) {
		if err := errors.Join(d.ungrant("the vif was detached"), d.awaitVif(ctx)); err != nil {
			return err
		}
		a, err = d.find(ctx)
	}
	if err != nil {
		return err
	}
	d.setAddress(a)
	if err := d.plug.set(ctx, d.guest.Store, a.dir); err != nil {
		return err
	}
	d.meet(a.domid)
	if err := errors.Join(d.regrant(a), d.stayOff(ctx, a)); err != nil {
		return err
	}
	if err := d.learn(ctx, a); err != nil {
		return err
	}
	b, err := openBus(ctx, d.guest.Store, a, d.setBackendState)
	if err != nil {
		return err
	}
	defer b.close()
	b.awaits = d.setAwaits
	if err := b.reset(ctx); err != nil {
		if ctx.Err() != nil && !leaving(ctx) {
			d.leave(ctx, b)
		}
		return errors.Join(err, noteUnplugged(ctx, b))
	}
	o, err := readOffer(ctx, b.store, b.backend)
	if err != nil {
		return err
	}
	agreed, err := negotiate(d.cfg.Features, d.cfg.Queues, o)
	if err != nil {
		return err
	}
	b.removes = agreed.removes
	s, err := d.makeSession(ctx, &agreed, b.address)
	if err != nil {
		return err
	}
	d.sayUring()
	d.setPairs(s.pairs, agreed)
	// Deferred, for a panic too.
	defer func() { err = errors.Join(err, d.end(ctx, b, s, err)) }()
	return d.serve(ctx, b, agreed, o.multiQueue, s)
}

// awaitVif waits until the toolstack attaches the vif.
func (d *Device) awaitVif(ctx context.Context) error {
	w, err := xenstore.WatchPaced(ctx, d.guest.Store, vifDir)
	if err != nil {
		return fmt.Errorf("watch for vif: %w", err)
	}
	defer w.Close()
	d.log.Info("waiting for the vif to be attached", event(EventWaiting))
	for {
		if _, err := d.find(ctx); !errors.Is(err, ErrNoVif) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok := <-w.Events():
			if !ok {
				return fmt.Errorf("watch for vif: %w", w.Err())
			}
		case <-time.After(LookPause()):
		}
	}
}

// makeSession fits the queues into the grant budget and makes them. Agreed is reduced
// to what came of it.
func (d *Device) makeSession(ctx context.Context, agreed *agreement, a address) (*session, error) {
	limit, err := raise(d.guest.Grants, agreed.queues)
	if err != nil {
		return nil, err
	}
	if d.granted == nil {
		g := &granted{peer: a.domid, grants: d.guest.Grants, marker: markerPath(a.dir), nonce: newNonce()}
		// Before there is anything to be restored, and before the holder has it: without the
		// marker the next process would take the session for one from before a restore.
		if err := g.mark(ctx, d.guest.Store); err != nil {
			return nil, fmt.Errorf("mark the connection: %w", err)
		}
		d.setGranted(g)
	}
	for raised := false; ; {
		b, err := plan(agreed.queues, limit)
		if err != nil {
			return nil, err
		}
		s, err := d.trySession(b, agreed, a)
		if err == nil {
			d.granted.limit, _ = d.guest.Grants.Limit() // unknown: it looks raised next time
			if b.Reduced {
				agreed.missing["full_rings"] = fmt.Sprintf("%d pages needed, %d can be granted", b.Needed, limit)
				d.log.Warn("reduced to fit the limit of granted pages; raise /sys/module/xen_gntalloc/parameters/limit",
					zap.Int("limit", limit), zap.Int("needed", b.Needed),
					zap.Int("queues", b.Queues), zap.Int("buffers", b.Maps), event(EventReduced))
			}
			if len(s.pairs) < b.Queues {
				agreed.missing["queues"] = "the TAP has no more in its network namespace"
			}
			agreed.queues = len(s.pairs)
			return s, nil
		}
		if !errors.Is(err, xen.ErrGrantLimit) {
			return nil, err
		}
		// Others in the guest use the same limit: all of it at most. Where it cannot be
		// raised, half of it, then.
		if !raised && d.guest.Grants.RaiseLimit(limit+b.Used) == nil {
			raised = true
			continue
		}
		limit = b.Used / 2
	}
}

// trySession makes b.Queues pairs, or none. New pages are given back where there are not
// enough, for fewer to be tried; no backend was told of them.
func (d *Device) trySession(b Budget, agreed *agreement, a address) (s *session, err error) {
	queues, err := d.setQueues(b.Queues)
	if err != nil {
		return nil, err
	}
	if err := d.configureLink(agreed.Features); err != nil {
		return nil, err
	}
	s = &session{number: a.number(), granted: d.granted}
	had := len(d.granted.pairs)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
			s = nil
		}
		if errors.Is(err, xen.ErrGrantLimit) {
			err = errors.Join(err, d.granted.shrink(had))
		}
		d.setGranted(d.granted)
	}()
	if s.file, err = newStateFile(len(queues)); err != nil {
		return s, err
	}
	c := pairConfig{
		guest: d.guest, grants: d.granted.grants, backend: a.domid, features: agreed.Features,
		oneWorker: runtime.GOMAXPROCS(0) == 1, clock: &d.clock,
	}
	for i, q := range queues {
		pages, err := d.granted.pair(i, b.Maps)
		if err != nil {
			return s, err
		}
		p, err := newPair(c, i, q, s.file.memory(i), pages)
		if err != nil {
			return s, err
		}
		s.pairs = append(s.pairs, p)
	}
	return s, nil
}

// serve publishes the rings, waits for the backend to connect, and carries frames
// until something ends the connection.
func (d *Device) serve(ctx context.Context, b *bus, agreed agreement, multiQueue bool, s *session) error {
	d.hold(b.address, agreed, s)
	if err := publish(ctx, b.store, b.dir, agreed, multiQueue, s); err != nil {
		return err
	}
	crashPoint(crashPublished)
	// The rx buffers are on the rings before the backend looks at them.
	if err := b.setState(ctx, netif.StateConnected); err != nil {
		return err
	}
	d.setState(netif.StateInitialised, nil)
	st, err := b.awaitConnected(ctx)
	if err != nil {
		return err
	}
	if st != netif.StateConnected {
		return fmt.Errorf("%w: it went to %v instead of Connected", errBackendClosed, st)
	}
	if err := checkWanted(ctx, b); err != nil {
		return err
	}
	if err := d.learnLate(ctx, b.address, agreed.Features); err != nil {
		return err
	}
	if _, err := d.noteDisabled(ctx, b); err != nil {
		return err
	}
	shape := d.newShaping(s.pairs, d.rate(ctx, b))
	failed := s.start()
	if err := d.connected(s.pairs); err != nil {
		return err
	}
	d.log.Info("connected", zap.Uint16("backend", uint16(b.domid)), zap.Int("queues", len(s.pairs)),
		zap.Strings("features", agreed.Names()), zap.String("missing", agreed.reasons()), event(EventConnected))
	return d.monitor(ctx, b, s.pairs, failed, shape, true, true)
}

// connected is what a backend that has just become Connected is followed by.
func (d *Device) connected(pairs []*pair) error {
	d.setState(netif.StateConnected, nil)
	return d.plugIn(pairs)
}

// end ends a connection: if a process goes on with it, by leaving it alone, else for
// good: no frame is lost that the backend has, none is sent any more, everything is
// freed but the pages, which the next connection has.
func (d *Device) end(ctx context.Context, b *bus, s *session, cause error) error {
	if leaving(ctx) && s.held {
		d.announce.end()
		s.stop()
		d.setPairs(nil, agreement{})
		err := errors.Join(s.detach(), s.granted.close())
		d.setGranted(nil)
		d.log.Info("left to the next process", event(EventLeft))
		return err
	}
	d.announce.end()
	err := d.link.SetCarrier(false)
	d.setDisabled(false) // the next connection looks
	s.stop()
	d.showEvidence(s, cause)
	d.setPairs(nil, agreement{})
	err = errors.Join(err, noteUnplugged(ctx, b))
	d.leave(ctx, b)
	return errors.Join(err, d.drop(s))
}

// leave walks the vif to Closed, as far as the backend goes along, and from there to
// Initialising without a key of ours, which is how the toolstack made it: free for
// the next owner, who may not write all the keys that netback reads. Closed
// would not do. Linux remembers the state of a device without a driver as
// Initialising, so that xen-netfront's probe, finding nothing to change, does not
// write it (__xenbus_switch_state), and waits for the backend to leave Closed for
// ever: modprobe hangs.
//
// When ctx has ended nobody here makes another connection, and a backend gets more time: one
// that closes only after a frontend that closes would stay Connected to nobody (QEMU's).
func (d *Device) leave(ctx context.Context, b *bus) {
	patience, last := stopTimeout, ctx.Err() != nil
	if last {
		patience = farewellTimeout
	}
	// A xenstored that is slow gets more time for its first answer than one that is dead
	// should cost.
	asking, cancel := context.WithTimeout(context.Background(), 6*stopTimeout)
	defer cancel()
	if b.moved(asking) != nil {
		return // not ours any more, or no directory to write to, or nobody who answers
	}
	walking, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	if errors.Is(b.shut(walking, patience), errMoved) {
		return
	}
	// After a walk that was cut short, too: where xenstored is slow it takes longer than
	// its time, and the next owner would find keys of ours, and a state that says that
	// somebody is there. A backend that was not waited for walks by itself when it sees
	// Initialising.
	err := b.clear(walking)
	if err == nil && last && b.last == netif.StateConnected {
		err = fmt.Errorf("%s in domain %d did not close within %v and was still Connected: no frontend gets the vif until it has", b.backend, b.domid, patience)
	}
	if err != nil && !errors.Is(err, errMoved) {
		d.log.Warn("the vif was not left as the toolstack made it", problem(err), event(EventNotLeft))
	}
}
