package prepare

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/guestvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

const (
	// rewindLimit is how long the walk of a vif to Initialising may take, and the kernel to
	// see it. The kernel can be held up there by a driver of another device.
	rewindLimit = 15 * time.Second
	// yieldLimit is how long to wait for a daemon whose vif the kernel has taken.
	yieldLimit = 3 * time.Second
)

// take takes the vifs from the kernel's driver for good. It takes all of them at a time: with
// a silent backend the kernel needs as long as it waits for that.
func (p *preparer) take(ctx context.Context, s xen.Store, vifs []wantedVif) error {
	limited, cancel := context.WithTimeout(ctx, vifowner.Limit)
	defer cancel()
	attached := map[int]bool{}
	var ids []int
	for _, v := range vifs {
		attached[v.devid] = v.attached
		ids = append(ids, v.devid)
	}
	return p.each(ids, func(devid int) (string, error) {
		if !attached[devid] {
			return "not attached", nil
		}
		said, err := p.takeOne(ctx, limited, s, devid)
		if errors.Is(err, netfront.ErrNoVif) || errors.Is(err, xenstore.ErrNotFound) {
			return "detached meanwhile", nil
		}
		return said, err
	})
}

// each calls do for all vifs at a time. It prints what do returns of each, in the order of
// the vifs. The errors are a line for each vif.
func (p *preparer) each(devids []int, do func(devid int) (said string, err error)) error {
	type outcome struct {
		said string
		err  error
	}
	outcomes := make([]chan outcome, len(devids))
	for i, devid := range devids {
		outcomes[i] = make(chan outcome, 1)
		go func() {
			said, err := do(devid)
			outcomes[i] <- outcome{said, err}
		}()
	}
	var errs failure.Several
	for i, devid := range devids {
		o := <-outcomes[i]
		if o.said != "" {
			p.say("vif %d: %s", devid, o.said)
		}
		if o.err != nil {
			errs.Add(fmt.Errorf("vif %d: %w", devid, o.err))
		}
	}
	return errs.OrNil()
}

// takeOne takes a vif. The waits for other processes and for the kernel end with limited; a
// step that has begun with the vif goes on to its end.
func (p *preparer) takeOne(ctx, limited context.Context, s xen.Store, devid int) (said string, err error) {
	// A running daemon would take the vif as soon as the kernel's driver has let go.
	release, err := p.kernel.Reserve(limited, devid)
	if err != nil {
		if limited.Err() != nil && ctx.Err() == nil {
			return "", errors.New("another `xnetfrontd prepare` or `release` has reserved it, and has not ended")
		}
		return "", err
	}
	defer release()
	driver, err := p.kernel.Driver(devid)
	if err != nil {
		return "", err
	}
	if driver == "" {
		return p.settle(ctx, s, devid)
	}
	// A daemon that had the vif before the kernel took it ends its connection first, and
	// walks through states, too. A daemon without the lock is between two attempts, and
	// waits for the reservation.
	yield, cancel := context.WithTimeout(limited, yieldLimit)
	vifowner.Await(yield, p.lockDir, devid)
	cancel()
	link := p.kernel.Link(devid)
	if err := p.kernel.Unbind(limited, devid); err != nil {
		return "", err
	}
	if err := p.rewind(ctx, s, devid); err != nil {
		return "", fmt.Errorf("taken from the kernel's %s, which may take it again: %w", vifowner.Module, err)
	}
	if link != "" {
		link = ", where it was " + link
	}
	return fmt.Sprintf("taken from the kernel's %s%s", vifowner.Module, link), nil
}

// settle makes sure that the kernel does not give a vif that no driver has to a driver. If
// another process took the vif from the kernel's driver, the driver left it closed. A vif
// that a daemon has, or has left, is not closed. settle returns a text for the user.
func (p *preparer) settle(ctx context.Context, s xen.Store, devid int) (said string, err error) {
	state, err := s.Read(ctx, fmt.Sprintf("%s/%d/%s", guestvif.Dir, devid, netif.KeyState))
	if err != nil {
		return "", err
	}
	_, served := vifowner.Owner(p.lockDir, devid)
	if !p.kernel.Stale(devid) || served || state != strconv.Itoa(int(netif.StateClosed)) {
		return "no kernel driver has it", nil
	}
	if err := p.rewind(ctx, s, devid); err != nil {
		return "", fmt.Errorf("no kernel driver has it, but one may take it: %w", err)
	}
	return "no kernel driver has it any more", nil
}

// rewind walks a vif to the state in which a daemon begins, while the kernel gives the vif
// to no driver.
func (p *preparer) rewind(ctx context.Context, s xen.Store, devid int) error {
	ctx, cancel := context.WithTimeout(ctx, rewindLimit)
	defer cancel()
	return netfront.Rewind(ctx, s, devid, func(do func() error) error { return p.kernel.WithoutProbing(ctx, do) })
}
