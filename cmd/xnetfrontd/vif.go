package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// vif is one configured interface. It shares nothing with the others, not even the
// connection to xenstore.
type vif struct {
	conf config.Vif
	log  *zap.Logger

	lock   *vifLock
	guest  *xen.Guest
	device *netfront.Device

	mu      sync.Mutex
	problem string // why it is not served; empty while it is
}

// openVifs opens what was configured. It fails if there is nothing at all to serve;
// else a vif that cannot be opened is logged, and there with its problem.
func openVifs(ctx context.Context, confs []config.Vif, x xenFlags, sys system, log *zap.Logger) ([]*vif, error) {
	var vifs []*vif
	var errs []error
	for _, conf := range confs {
		v := &vif{conf: conf, log: log.With(zap.Int("vif", conf.DevID))}
		if err := v.open(ctx, x, sys, log); err != nil {
			err = errors.Join(err, v.close())
			v.fail(err)
			errs = append(errs, fmt.Errorf("vif %d: %w", conf.DevID, err))
		}
		vifs = append(vifs, v)
	}
	if len(errs) == len(confs) {
		return nil, errors.Join(errs...)
	}
	for _, v := range vifs {
		if v.device == nil {
			v.log.Error("not served", zap.String("error", v.trouble()))
		}
	}
	return vifs, nil
}

// open does all that can fail for a reason the user must mend. What it got before it
// failed is for close.
func (v *vif) open(ctx context.Context, x xenFlags, sys system, log *zap.Logger) (err error) {
	if v.guest, err = x.open(sys); err != nil {
		return err
	}
	if !x.embedded() {
		if err := sys.checkOwner(v.conf.DevID); err != nil {
			return err
		}
	}
	if err := sys.check(); err != nil {
		return err
	}
	if v.lock, err = lockVif(x.lockDir(), v.conf.DevID); err != nil {
		return err
	}
	if err := v.checkBudget(ctx); err != nil {
		return err
	}
	cfg := frontendConfig(v.conf)
	cfg.Logger = log // Device adds the vif itself
	if v.device, err = netfront.Open(ctx, v.guest, cfg); err != nil {
		return explainOpen(ctx, v.guest, v.conf, err)
	}
	return nil
}

// checkBudget fails when the guest may not grant pages enough for even one queue and
// that cannot be mended from here. Everything else that is wrong is for Open to say.
func (v *vif) checkBudget(ctx context.Context) error {
	r, err := netfront.Inspect(ctx, v.guest, inspectConfig(v.conf))
	if !errors.Is(err, netfront.ErrBudget) || v.guest.Grants.RaiseLimit(r.Budget.Needed) == nil {
		return nil
	}
	return err
}

// explainOpen adds to an error of Open or Inspect what helps.
func explainOpen(ctx context.Context, guest *xen.Guest, conf config.Vif, err error) error {
	switch {
	case errors.Is(err, netfront.ErrNoVif):
		return fmt.Errorf("%w: %s", netfront.ErrNoVif, existing(ctx, guest))
	case errors.Is(err, tap.ErrNameTaken):
		return tapTaken(conf.TAP)
	}
	return err
}

func tapTaken(name string) error {
	return fmt.Errorf("TAP %q: %w: choose another `tap`, or remove that link with `ip link del %s`", name, tap.ErrNameTaken, name)
}

// existing says which vifs the toolstack gave this domain.
func existing(ctx context.Context, guest *xen.Guest) string {
	ids, err := netfront.ListVifs(ctx, guest.Store)
	switch {
	case err != nil:
		return fmt.Sprintf("which ones there are cannot be read: %v", err)
	case len(ids) == 0:
		return "this domain has none; attach one with `xl network-attach` in domain 0"
	}
	slices.Sort(ids)
	return "this domain has " + strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ", "), "[]")
}

// run serves the vif until ctx ends, and then frees everything it has.
func (v *vif) run(ctx context.Context) {
	if v.device == nil {
		return // it could not be opened
	}
	if err := v.device.Run(ctx); err != nil {
		v.fail(err)
		v.log.Error("not served any more", zap.Error(err))
	}
}

func (v *vif) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.problem = oneLine(err)
}

// trouble is why the vif is not served, or empty.
func (v *vif) trouble() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.problem
}

// close frees what open got, the TAP first. A second close does nothing.
func (v *vif) close() error {
	var errs []error
	if v.device != nil {
		errs = append(errs, v.device.Close())
	}
	if v.guest != nil {
		errs = append(errs, v.guest.Close())
	}
	if v.lock != nil {
		errs = append(errs, v.lock.release())
	}
	v.device, v.guest, v.lock = nil, nil, nil
	return errors.Join(errs...)
}

func closeVifs(vifs []*vif) error {
	var errs []error
	for _, v := range vifs {
		if err := v.close(); err != nil {
			errs = append(errs, fmt.Errorf("vif %d: %w", v.conf.DevID, err))
		}
	}
	return errors.Join(errs...)
}
