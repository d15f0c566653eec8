package netfront

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// DefaultMaxViolations is how many violations of one backend's domain are borne. With the
// back-off they take nearly two minutes at least.
const DefaultMaxViolations = 16

// maxLeft is how many pages may be left behind, in use for nothing, before no more are
// granted: an eighth of the grant table that Xen gives a guest by default.
const maxLeft = 4096

// standing is what there is to hold against the domain of a vif's backend. It goes to the next
// process with the TAP, and nothing that the backend can do makes it better: the toolstack can,
// by giving the vif to another domain, and an administrator, see [Device.Retry].
type standing struct {
	Backend    xen.DomID `json:"backend"`
	Violations int       `json:"violations,omitempty"`
}

// floor is the shortest back-off.
func (s standing) floor() time.Duration {
	wait := backoffMin
	for range s.Violations - 1 {
		if wait = 2 * wait; wait >= backoffMax {
			return backoffMax
		}
	}
	return wait
}

// setStanding changes it, and has the holder know.
func (d *Device) setStanding(s standing) {
	was := d.set.Standing
	d.set.Standing = s
	if s.Violations != was.Violations {
		d.update(func(v *view) { v.violations = s.Violations })
		d.holdLink()
	}
}

// meet begins with a clean sheet if the backend is in another domain than before.
func (d *Device) meet(backend xen.DomID) {
	d.pardon()
	if d.set.Standing.Backend != backend {
		d.setStanding(standing{Backend: backend})
	}
}

// holdAgainst counts a violation.
func (d *Device) holdAgainst() {
	d.pardon() // of what was before
	s := d.set.Standing
	s.Violations++
	d.setStanding(s)
}

// Retry forgets what the backend has done, takes a vif up again that is off, and ends a
// back-off. Any goroutine may call it.
func (d *Device) Retry() {
	d.retry.Store(true)
	select {
	case d.retried <- struct{}{}:
	default: // it is told already
	}
}

// pardon does what Retry was called for, and tells whether it was.
func (d *Device) pardon() bool {
	if !d.retry.Swap(false) {
		return false
	}
	d.setStanding(standing{Backend: d.set.Standing.Backend})
	d.forgiven, _ = d.guest.Grants.Left() // unknown: it is asked again before anything is granted
	d.log.Info("what the backend did is forgotten, as somebody asked", event(EventRetry))
	return true
}

// whyOff says why nothing is tried with the backend any more; empty: it is.
func (d *Device) whyOff() (string, error) {
	if n, most := d.set.Standing.Violations, d.cfg.MaxViolations(); most > 0 && n >= most {
		return fmt.Sprintf("the backend in domain %d violated the protocol %d times", d.set.Standing.Backend, n), nil
	}
	if d.granted != nil && len(d.granted.pairs) > 0 {
		return "", nil // what there is takes no more of the grant table
	}
	left, err := d.guest.Grants.Left()
	if err != nil {
		return "", fmt.Errorf("which granted pages are still in use: %w", err)
	}
	if left-d.forgiven > d.maxLeft {
		return fmt.Sprintf("backends keep %d pages mapped that were given back", left), nil
	}
	return "", nil
}

// ErrOff says that a vif is off: see [Status].Off.
var ErrOff = errors.New("the vif is off, until it is told to retry")

// stayOff returns when there is no reason any more for the vif at a to be off. It fails with
// errMoved when the vif was detached or has another backend.
func (d *Device) stayOff(ctx context.Context, a address) error {
	why, err := d.whyOff()
	if why == "" || err != nil {
		return err
	}
	b, err := openBus(ctx, d.guest.Store, a, d.setBackendState)
	if err != nil {
		return err
	}
	defer b.close()
	d.setState(netif.StateClosed, fmt.Errorf("%w: %s", ErrOff, why))
	d.setOff(why)
	defer d.setOff("")
	d.log.Error("the vif is off", zap.Uint16("backend", uint16(a.domid)), zap.String("because", why), event(EventOff))
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.retried:
			if d.pardon() {
				return nil
			}
		case _, ok := <-b.backendWatch.Events():
			if !ok {
				return fmt.Errorf("watch of the backend's state: %w", b.backendWatch.Err())
			}
		case _, ok := <-d.plug.events():
			d.plug.took(ok)
		case <-time.After(LookPause()): // events can be late
		}
		if now, err := d.find(ctx); err != nil || now.domid != a.domid {
			return errors.Join(errMoved, err)
		}
		if err := b.closeWith(ctx); err != nil {
			return err
		}
	}
}

// closeWith closes this end if the backend is Closing: a toolstack that takes a vif away waits
// for both, whatever the vif is like. It then takes a moment, in which a backend that goes back
// and forth is not followed.
func (b *bus) closeWith(ctx context.Context) error {
	st, err := readState(ctx, b.store, b.backend)
	if err != nil {
		return err
	}
	b.saw(st)
	if st != netif.StateClosing {
		return nil
	}
	if err := b.shut(ctx, walkTimeout); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(backoffMin):
	}
	return nil
}

func (d *Device) setOff(why string) { d.update(func(v *view) { v.off = why }) }

// pause is the back-off before the next connection. It ends early, and tells so, when there is
// reason to begin anew: somebody asked for it, or the toolstack has attached or detached the
// vif. That shows in the vif's own directory, which only the toolstack writes besides this
// guest; a backend can write what it likes in its own. After a violation only another backend
// is one.
func (d *Device) pause(ctx context.Context, wait time.Duration) (anew bool) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if d.pardon() {
		return true
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-d.retried:
			if d.pardon() {
				return true
			}
		case _, ok := <-d.plug.events():
			if !d.plug.took(ok) {
				break
			}
			if d.set.Standing.Violations == 0 {
				return true
			}
			if a, err := d.find(ctx); err == nil && a.domid != d.set.Standing.Backend {
				return true
			}
		}
	}
}
