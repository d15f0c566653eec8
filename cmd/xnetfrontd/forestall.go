package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// forestall has the kernel's driver there before udev loads it, and takes no vif with
// it. Loaded later, it would take those that the daemon serves by then: it finds them
// connected, waits 5 minutes for its own connection, through which the guest cannot be
// saved, and breaks the daemon's when it is told to let go.
func (p *preparer) forestall(ctx context.Context, s xen.Store, vifs []wantedVif) error {
	attached := slices.ContainsFunc(vifs, func(v wantedVif) bool { return v.attached })
	if !attached || !p.sys.hasUdev() {
		return nil
	}
	loaded, err := p.bus.forestall(ctx)
	if !loaded {
		return err
	}
	p.say("module %s: loaded, before it takes a vif", kernelModule)
	var errs severalErrors
	errs.add(err)
	others, err := untaken(ctx, s, vifs)
	errs.add(err)
	errs.add(p.each(others, func(devid int) (string, error) {
		if !p.bus.has(devid) {
			return "", nil
		}
		return p.leave(ctx, devid)
	}))
	return errs.orNil()
}

// leaveLimit is how long a start waits for the kernel to take what is the kernel's. It
// goes on with that when the vif's backend answers.
const leaveLimit = 3 * time.Second

// leave gives the kernel a vif that is not configured, as udev would have. It returns what
// is to be said of it.
func (p *preparer) leave(ctx context.Context, devid int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, leaveLimit)
	defer cancel()
	err := p.bus.bind(ctx, devid)
	if ctx.Err() != nil {
		return "not configured, the kernel's when its backend answers", nil
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("not configured, the kernel's %s has it", kernelModule), nil
}

// untaken returns the vifs that are there, are not wanted, and have no frontend yet.
func untaken(ctx context.Context, s xen.Store, wanted []wantedVif) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	have, err := netfront.Vifs(ctx, s)
	if err != nil {
		return nil, err
	}
	var found []int
	var errs severalErrors
	for _, v := range have {
		if slices.ContainsFunc(wanted, func(w wantedVif) bool { return w.devid == v.DevID }) {
			continue
		}
		state, err := s.Read(ctx, fmt.Sprintf("%s/%d/state", vifDir, v.DevID))
		if errors.Is(err, xenstore.ErrNotFound) {
			continue // detached meanwhile
		}
		if err != nil {
			errs.add(fmt.Errorf("vif %d: %w", v.DevID, err))
			continue
		}
		if state == strconv.Itoa(int(netif.StateInitialising)) {
			found = append(found, v.DevID)
		}
	}
	return found, errs.orNil()
}
