package daemon

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/heldvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// dropStale ends the connections that an earlier daemon left of vifs which the configuration
// does not have any more. A vif that is configured and not there now may come back: its
// connection stays.
func (p place) dropStale(ctx context.Context, keeper *hold.Keeper, cfg config.Config, store xen.Store) {
	entries, err := keeper.List(ctx)
	if err != nil {
		return // the log has it already that there is no holder
	}
	stale := map[string]string{} // number of the vif, or empty, by key
	for _, e := range entries {
		cut := strings.LastIndexByte(e.Key, '/')
		if e.Parked != "" || cut < 0 || slices.ContainsFunc(cfg.Vifs, func(t config.Vif) bool { return heldvif.MayBe(t, e.Key[:cut]) }) {
			continue
		}
		key := e.Key[:cut]
		if e.Key == key+netfront.KeyConnection {
			stale[key] = e.Label
		} else if _, ok := stale[key]; !ok {
			stale[key] = ""
		}
	}
	for key, number := range stale {
		p.log.Info("ending the connection that an earlier daemon left: the configuration has no such vif any more", zap.String("key", key), logging.Event(eventStale))
		var err error
		if devid, nerr := strconv.Atoi(number); nerr == nil {
			err = p.freeVif(ctx, store, devid)
		}
		if err = errors.Join(err, netfront.Discard(store, heldvif.New(keeper), key)); err != nil {
			p.log.Warn("not ended cleanly", zap.String("key", key), logging.Problem(err), logging.Event(eventNotTidied))
		}
	}
}

// freeVif makes the backend let go of a vif that no process serves. It leaves the vif alone
// if another process or the kernel has taken it since.
func (p place) freeVif(ctx context.Context, store xen.Store, devid int) (err error) {
	if !p.xen.Embedded() {
		limited, cancel := context.WithTimeout(ctx, reserveLimit)
		defer cancel()
		release, err := p.kernel.Share(limited, devid)
		if err != nil {
			return err
		}
		defer release()
		if err := p.kernel.CheckFree(devid); err != nil {
			return err
		}
	}
	lock, err := vifowner.Take(p.xen.LockDir(), devid)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	ctx, cancel := context.WithTimeout(ctx, heldvif.Timeout)
	defer cancel()
	if err := netfront.Release(ctx, store, devid, nil); err != nil && !errors.Is(err, netfront.ErrNoVif) {
		return err
	}
	return nil
}
