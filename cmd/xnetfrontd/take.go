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

// claim takes the vifs from the kernel's driver, for good.
func (p *preparer) claim(ctx context.Context, s xen.Store, vifs []wantedVif) error {
	var errs []error
	for _, v := range vifs {
		err := p.claimOne(ctx, s, v)
		if errors.Is(err, netfront.ErrNoVif) || errors.Is(err, xenstore.ErrNotFound) {
			p.say("vif %d: detached meanwhile", v.devid)
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("vif %d: %w", v.devid, err))
		}
	}
	return errors.Join(errs...)
}

func (p *preparer) claimOne(ctx context.Context, s xen.Store, v wantedVif) error {
	if !v.attached {
		p.say("vif %d: not attached", v.devid)
		return nil
	}
	// A daemon that runs goes for the vif as soon as the kernel's driver has let go.
	release, err := p.bus.reserve(ctx, v.devid)
	if err != nil {
		return err
	}
	defer release()
	driver, err := p.bus.owner(v.devid)
	if err != nil {
		return err
	}
	if driver == "" {
		return p.settle(ctx, s, v.devid)
	}
	// One that had it before the kernel took it ends its connection first, which walks
	// through states, too. One that does not is between two attempts, and waits for us.
	limited, cancel := context.WithTimeout(ctx, yieldLimit)
	awaitLock(limited, p.lockDir, v.devid)
	cancel()
	link := p.bus.link(v.devid)
	if err := p.bus.unbind(ctx, v.devid); err != nil {
		return err
	}
	if err := p.rewind(ctx, s, v.devid); err != nil {
		return fmt.Errorf("taken from the kernel's %s, which may take it again: %w", kernelModule, err)
	}
	if link != "" {
		link = ", where it was " + link
	}
	p.say("vif %d: taken from the kernel's %s%s", v.devid, kernelModule, link)
	return nil
}

// settle keeps a vif that no driver has from being given to one: somebody else has taken
// it from the kernel's, which left it closed. What a daemon has, or has left, is not closed.
func (p *preparer) settle(ctx context.Context, s xen.Store, devid int) error {
	state, err := s.Read(ctx, fmt.Sprintf("%s/%d/%s", vifDir, devid, netif.KeyState))
	if err != nil {
		return err
	}
	_, served := lockOwner(p.lockDir, devid)
	if !p.bus.stale(devid) || served || state != strconv.Itoa(int(netif.StateClosed)) {
		p.say("vif %d: no kernel driver has it", devid)
		return nil
	}
	if err := p.rewind(ctx, s, devid); err != nil {
		return fmt.Errorf("no kernel driver has it, but one may take it: %w", err)
	}
	p.say("vif %d: no kernel driver has it any more", devid)
	return nil
}

// rewind walks a vif to where a daemon begins, while the kernel gives it to nobody.
func (p *preparer) rewind(ctx context.Context, s xen.Store, devid int) error {
	ctx, cancel := context.WithTimeout(ctx, takeLimit)
	defer cancel()
	return netfront.Rewind(ctx, s, devid, func(do func() error) error { return p.bus.withoutProbing(ctx, do) })
}
