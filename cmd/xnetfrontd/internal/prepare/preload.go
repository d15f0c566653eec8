package prepare

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// preload loads the kernel's driver before udev does, without a vif. If udev loaded it later,
// the driver would take the vifs that the daemon serves by then. It would find them
// connected and wait 5 minutes for its own connection. The guest cannot be saved meanwhile.
// When the driver is told to let go, it breaks the daemon's connection.
func (p *preparer) preload(ctx context.Context, s xen.Store, vifs []wantedVif) error {
	attached := slices.ContainsFunc(vifs, func(v wantedVif) bool { return v.attached })
	if !attached || !p.sys.HasUdev() {
		return nil
	}
	loaded, err := p.kernel.Preload(ctx)
	if !loaded {
		return err
	}
	p.say("module %s: loaded, before it takes a vif", vifowner.Module)
	var errs failure.Several
	errs.Add(err)
	others, err := untaken(ctx, s, vifs)
	errs.Add(err)
	errs.Add(p.each(others, func(devid int) (string, error) {
		if !p.kernel.Has(devid) {
			return "", nil
		}
		return p.giveToKernel(ctx, devid)
	}))
	return errs.OrNil()
}

// giveLimit is how long a start waits until the kernel has taken a vif. The kernel goes on
// after that, when the vif's backend answers.
const giveLimit = 3 * time.Second

// giveToKernel gives the kernel's driver a vif that is not configured, as udev would. It
// returns a text for the user.
func (p *preparer) giveToKernel(ctx context.Context, devid int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, giveLimit)
	defer cancel()
	err := p.kernel.Bind(ctx, devid)
	if ctx.Err() != nil {
		return "not configured, the kernel's when its backend answers", nil
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("not configured, the kernel's %s has it", vifowner.Module), nil
}

// untaken returns the numbers of the vifs that are there, are not wanted, and have no
// frontend yet.
func untaken(ctx context.Context, s xen.Store, wanted []wantedVif) ([]int, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	have, err := netfront.Vifs(ctx, s)
	if err != nil {
		return nil, err
	}
	var found []int
	var errs failure.Several
	for _, v := range have {
		if slices.ContainsFunc(wanted, func(w wantedVif) bool { return w.devid == v.DevID }) {
			continue
		}
		state, err := s.Read(ctx, fmt.Sprintf("%s/%d/state", guestvif.Dir, v.DevID))
		if errors.Is(err, xenstore.ErrNotFound) {
			continue // detached meanwhile
		}
		if err != nil {
			errs.Add(fmt.Errorf("vif %d: %w", v.DevID, err))
			continue
		}
		if state == strconv.Itoa(int(netif.StateInitialising)) {
			found = append(found, v.DevID)
		}
	}
	return found, errs.OrNil()
}
