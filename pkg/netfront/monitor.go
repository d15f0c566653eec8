package netfront

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// maxRebinds is how often a backend may be bound anew within one connection. One
// that goes back and forth for the sake of it, which costs log lines, carrier changes
// and announcements, then meets the back-off.
const maxRebinds = 16

// monitor waits for the end of a connection, and sees the backend through a rebind.
// Shape is the connection's. Attached says whether the backend is Connected now, fresh that it became so just now.
func (d *Device) monitor(ctx context.Context, b *bus, pairs []*pair, failed <-chan error, shape *shaping, attached, fresh bool) error {
	rates, err := xenstore.WatchPaced(ctx, b.store, b.backend+"/"+netif.KeyRate)
	if err != nil {
		return fmt.Errorf("watch the backend's rate: %w", err)
	}
	defer rates.Close()
	defer shape.stop()
	credit := shape.limit.largestWait()
	cable, err := xenstore.WatchPaced(ctx, b.store, b.dir+"/"+netif.KeyDisconnect)
	if err != nil {
		return fmt.Errorf("watch whether the vif is disabled: %w", err)
	}
	defer cable.Close()
	dog := newWatchdog(pairs, fresh, credit, d.log)
	sight := sight{d: d, b: b, pairs: pairs, attached: attached}
	seconds, stop := d.everySecond()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			// One that was started anew does not know where the last one stopped. That is no
			// fault, and no better for a liar: the connection ends, and the back-off is the same.
			if sight.rebinds > 0 && errors.Is(err, ring.ErrWentBack) {
				return fmt.Errorf("%w: %v", errBeganAgain, err)
			}
			return err
		case now := <-seconds:
			d.clock.Add(1)
			d.sayUring()
			shape.wake()
			if err := sight.tick(ctx, shape); err != nil {
				return err
			}
			if sight.back() {
				dog = newWatchdog(pairs, true, credit, d.log)
			}
			if !sight.attached || !dog.due() {
				break
			}
			if err := dog.look(now); err != nil {
				return err
			}
		case <-shape.fast.C:
			shape.look()
		case _, ok := <-rates.Events():
			if !ok {
				return fmt.Errorf("watch of the backend's rate: %w", rates.Err())
			}
			shape.setLimit(d.rate(ctx, b))
		case <-d.retried:
			d.pardon()
		case <-d.link.Changes():
			d.announce.changed(time.Now())
		case <-d.announce.due:
			d.announce.look(time.Now())
		case f := <-d.announce.found:
			if err := d.announce.took(time.Now(), f); err != nil {
				return err
			}
		case _, ok := <-b.moveWatch.Events():
			if !ok {
				return fmt.Errorf("watch of the vif: %w", b.moveWatch.Err())
			}
			if err := b.moved(ctx); err != nil {
				return err
			}
		case _, ok := <-cable.Events():
			if !ok {
				return fmt.Errorf("watch whether the vif is disabled: %w", cable.Err())
			}
			if err := d.cableChanged(ctx, b, sight.attached, pairs); err != nil {
				return err
			}
		case _, ok := <-b.backendWatch.Events():
			if !ok {
				return fmt.Errorf("watch of the backend's state: %w", b.backendWatch.Err())
			}
			st, err := readState(ctx, b.store, b.backend)
			if err == nil {
				err = sight.saw(ctx, st)
			}
			if err != nil {
				return err
			}
			if sight.back() {
				dog = newWatchdog(pairs, true, credit, d.log)
			}
		}
	}
}

// sight is what a monitor has seen of its backend. It is Run's goroutine's.
type sight struct {
	d        *Device
	b        *bus
	pairs    []*pair
	attached bool // the backend is Connected
	returned bool // it is so again, and back was not asked yet
	rebinds  int
	due      lookDue
}

// saw acts on a state of the backend's.
func (s *sight) saw(ctx context.Context, st netif.State) (err error) {
	was := s.attached
	if s.attached, err = s.d.follow(st, was, s.pairs); err != nil {
		return err
	}
	switch {
	case was && !s.attached:
		if s.rebinds++; s.rebinds > maxRebinds {
			return fmt.Errorf("%w: it was bound anew %d times", errBackendClosed, s.rebinds)
		}
		return s.b.checkOurs(ctx)
	case s.attached && !was:
		s.returned = true
		return checkWanted(ctx, s.b)
	}
	return nil
}

// back tells, once each time, that the backend is Connected again.
func (s *sight) back() bool {
	back := s.returned
	s.returned = false
	return back
}

// everySecond ticks once in a second, until stop is called.
func everySecond() (ticks <-chan time.Time, stop func()) {
	t := time.NewTicker(time.Second)
	return t.C, t.Stop
}

// follow acts on the backend's state while we are Connected. InitWait is a netback
// that was unbound and bound again: it will attach to the same rings, at the index
// where the last one stopped, so the rings stay.
func (d *Device) follow(st netif.State, attached bool, pairs []*pair) (bool, error) {
	d.setBackendState(st)
	switch st {
	case netif.StateClosing, netif.StateClosed:
		return attached, fmt.Errorf("%w: it is %v", errBackendClosed, st)
	case netif.StateUnknown:
		// Its directory is gone; the vif's own follows or gets another backend.
		return attached, fmt.Errorf("%w: its directory is gone", errBackendClosed)
	case netif.StateInitialising, netif.StateInitWait:
		if attached {
			d.log.Warn("the backend is being bound anew", event(EventUnbound))
			d.announce.end()
			return false, d.link.SetCarrier(false)
		}
	case netif.StateConnected:
		if !attached {
			for _, p := range pairs {
				for _, w := range p.workers {
					w.tell(controlKick)
				}
			}
			d.log.Info("the backend is back", event(EventBack))
			return true, d.connected(pairs)
		}
	}
	return attached, nil
}
