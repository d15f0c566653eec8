package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/release"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

type releaseCmd struct {
	xenFlags
	holdFlags
	Vif int `required:"" placeholder:"N" help:"Number of the vif to give back."`
}

func (c *releaseCmd) Help() string {
	return `Gives a vif that no daemon serves back to the kernel's xen-netfront, even after a daemon
that was killed, and waits until the kernel is connected. It loads the module if need be,
without giving it any other vif. If the vif is still in the configuration, the next start of
the daemon takes it again.`
}

func (c *releaseCmd) Run(s streams) (err error) {
	if c.Vif < 0 || c.Vif > config.MaxDevID {
		return failure.Usagef("--vif %d: expected a whole number from 0 to %d", c.Vif, config.MaxDevID)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	sys := machine.Local()
	at := c.xen()
	r := release.Releaser{DevID: c.Vif, LockDir: at.LockDir(), Limit: release.DefaultLimit, Out: s.out, Holder: c.socket(at.Embedded())}
	if at.Embedded() {
		guest, err := at.Open(sys)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, guest.Close()) }()
		r.Store = guest.Store
	} else {
		// The store alone: neither grants nor event channels are needed.
		store, err := xenstore.Open()
		if err != nil {
			return sys.ExplainXen(err)
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		r.Store, r.Kernel = store, vifowner.NewKernel(sys.Sysfs)
	}
	if err := r.Release(ctx); err != nil {
		return fmt.Errorf("vif %d: %w", c.Vif, err)
	}
	return nil
}
