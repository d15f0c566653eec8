package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/prepare"
)

type prepareCmd struct {
	configFlags
	xenFlags
	IfConfigured bool   `hidden:"" help:"Exit with 1 if no vif is configured, and with 0 whatever else comes of it: the unit's condition."`
	Group        string `placeholder:"NAME" help:"Let this group use /dev/xen/xenbus, gntalloc and evtchn. A process that can open xenbus can read and write all that this guest can in xenstore."`
	User         string `placeholder:"NAME" help:"Let this user run the daemon: its group may use the devices as with --group, and it gets the files that a daemon of another user left in /run."`
}

func (c *prepareCmd) Help() string {
	return `Does what run needs, and may not do itself where it runs without privileges. It loads
xen-gntalloc, xen-evtchn and tun, raises the limit of granted pages to what the vifs need,
and takes the vifs from the kernel's xen-netfront. It leaves alone what is in place, so it
can be run at any time. It prints a line for each step.`
}

func (c *prepareCmd) Run(s streams) (err error) {
	if !c.IfConfigured {
		return c.prepare(s)
	}
	if !c.configured() {
		fmt.Fprintln(s.out, "no vif is configured: nothing to serve")
		return failure.Reported(failure.ExitRuntime)
	}
	// The journal has what went wrong. Then run reports the vifs that lack something, and
	// serves the others.
	report(s.err, c.prepare(s))
	return nil
}

// configured tells whether the configuration names a vif. A package that was just installed
// serves nothing, and that is no failure. It is true of a configuration with a mistake, too:
// run reports the mistake, and the unit fails with it.
func (c *prepareCmd) configured() bool {
	cfg, err := c.load()
	if err == nil {
		return len(cfg.Vifs) > 0
	}
	var problem *config.Problem
	return !errors.Is(err, fs.ErrNotExist) && !(errors.As(err, &problem) && problem.Key == "vif" && problem.Value == "")
}

func (c *prepareCmd) prepare(s streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	return prepare.Run(ctx, prepare.Options{
		System: machine.Local(), Xen: c.xen(), Config: cfg, Group: c.Group, User: c.User, Out: s.out,
	})
}

// attributeCmd is the process that [vifowner.StoreAttribute] starts.
type attributeCmd struct {
	Path  string `arg:""`
	Value string `arg:""`
}

func (c *attributeCmd) Run(streams) error { return os.WriteFile(c.Path, []byte(c.Value), 0) }
