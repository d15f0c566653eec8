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
	return `Gives a vif that no daemon serves back to the kernel's xen-netfront, whatever state a
daemon that was killed has left it in, and waits until the kernel is connected. The
module is loaded if it is not, without taking any other vif. A vif that is still in
the configuration is taken again with the next start of the daemon.`
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
