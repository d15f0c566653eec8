package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

const (
	// takeLimit is how long the walk of a vif to Initialising may take, and the kernel to
	// see it. What waits there is a driver of another device.
	takeLimit = 15 * time.Second
	// yieldLimit is how long a daemon is waited for that has a vif which the kernel has
	// taken from it.
	yieldLimit = 3 * time.Second
)

// claim takes the vifs from the kernel's driver, for good, and all of them at a time: one
// whose backend is silent takes the kernel as long as it is waited for.
func (p *preparer) claim(ctx context.Context, s xen.Store, vifs []wantedVif) error {
	limited, cancel := context.WithTimeout(ctx, kernelLimit)
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
		said, err := p.claimOne(ctx, limited, s, devid)
		if errors.Is(err, netfront.ErrNoVif) || errors.Is(err, xenstore.ErrNotFound) {
			return "detached meanwhile", nil
		}
		return said, err
	})
}

// each calls do for all vifs at a time, and says in their order what it returns of each. The
// errors are a line for each vif.
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
	var errs severalErrors
	for i, devid := range devids {
		o := <-outcomes[i]
		if o.said != "" {
			p.say("vif %d: %s", devid, o.said)
		}
		if o.err != nil {
			errs.add(fmt.Errorf("vif %d: %w", devid, o.err))
		}
	}
	return errs.orNil()
}

// claimOne takes a vif. Limited is for how long others and the kernel are waited for; what
// is begun with the vif is done.
func (p *preparer) claimOne(ctx, limited context.Context, s xen.Store, devid int) (said string, err error) {
	// A daemon that runs goes for the vif as soon as the kernel's driver has let go.
	release, err := p.bus.reserve(limited, devid)
	if err != nil {
		if limited.Err() != nil && ctx.Err() == nil {
			return "", errors.New("it changes hands with the kernel, by another `xnetfrontd prepare` or `release`, which has not ended")
		}
		return "", err
	}
	defer release()
	driver, err := p.bus.owner(devid)
	if err != nil {
		return "", err
	}
	if driver == "" {
		return p.settle(ctx, s, devid)
	}
	// One that had it before the kernel took it ends its connection first, which walks
	// through states, too. One that does not is between two attempts, and waits for us.
	yield, cancel := context.WithTimeout(limited, yieldLimit)
	awaitLock(yield, p.lockDir, devid)
	cancel()
	link := p.bus.link(devid)
	if err := p.bus.unbind(limited, devid); err != nil {
		return "", err
	}
	if err := p.rewind(ctx, s, devid); err != nil {
		return "", fmt.Errorf("taken from the kernel's %s, which may take it again: %w", kernelModule, err)
	}
	if link != "" {
		link = ", where it was " + link
	}
	return fmt.Sprintf("taken from the kernel's %s%s", kernelModule, link), nil
}

// settle keeps a vif that no driver has from being given to one: somebody else has taken
// it from the kernel's, which left it closed. What a daemon has, or has left, is not closed.
// It returns what is to be said of it.
func (p *preparer) settle(ctx context.Context, s xen.Store, devid int) (said string, err error) {
	state, err := s.Read(ctx, fmt.Sprintf("%s/%d/%s", vifDir, devid, netif.KeyState))
	if err != nil {
		return "", err
	}
	_, served := lockOwner(p.lockDir, devid)
	if !p.bus.stale(devid) || served || state != strconv.Itoa(int(netif.StateClosed)) {
		return "no kernel driver has it", nil
	}
	if err := p.rewind(ctx, s, devid); err != nil {
		return "", fmt.Errorf("no kernel driver has it, but one may take it: %w", err)
	}
	return "no kernel driver has it any more", nil
}

// rewind walks a vif to where a daemon begins, while the kernel gives it to nobody.
func (p *preparer) rewind(ctx context.Context, s xen.Store, devid int) error {
	ctx, cancel := context.WithTimeout(ctx, takeLimit)
	defer cancel()
	return netfront.Rewind(ctx, s, devid, func(do func() error) error { return p.bus.withoutProbing(ctx, do) })
}
