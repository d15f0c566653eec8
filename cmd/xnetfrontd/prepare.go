package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

type prepareCmd struct {
	configFlags
	xenFlags
	IfConfigured bool   `hidden:"" help:"Exit with 1 if no vif is configured, and with 0 whatever else comes of it: the unit's condition."`
	Group        string `placeholder:"NAME" help:"Let this group use /dev/xen/xenbus, gntalloc and evtchn. Whoever can open xenbus reads and writes all that this guest can in xenstore."`
	User         string `placeholder:"NAME" help:"Let this user run the daemon: its group may use the devices as with --group, and what a daemon of another user left in /run becomes its own."`
}

func (c *prepareCmd) Help() string {
	return `Does what run needs and may not do itself where it runs without privileges: loads
xen-gntalloc, xen-evtchn and tun, raises the limit of granted pages to what the vifs
need, and takes the vifs from the kernel's xen-netfront. What is in place is left
alone, so it can be run at any time. It prints a line for each thing.`
}

func (c *prepareCmd) Run(s streams) (err error) {
	if !c.IfConfigured {
		return c.prepare(s)
	}
	if !c.configured() {
		fmt.Fprintln(s.out, "no vif is configured: nothing to serve")
		return exitCode(exitRuntime)
	}
	// What went wrong is in the journal, and run says what it lacks for it, and serves the
	// vifs that lack nothing.
	report(s.err, c.prepare(s))
	return nil
}

// configured tells whether anything names a vif: a package that was just installed
// serves nothing, and that is no failure. What is wrong with a configuration is for
// run to say, and for the unit to fail with.
func (c *prepareCmd) configured() bool {
	cfg, err := c.load()
	if err == nil {
		return len(cfg.Vifs) > 0
	}
	var problem *config.Problem
	return !errors.Is(err, fs.ErrNotExist) && !(errors.As(err, &problem) && problem.Key == "vif" && problem.Value == "")
}

func (c *prepareCmd) prepare(s streams) (err error) {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	sys := newSystem()
	p := preparer{sys: sys, bus: newKernelBus(sys), lockDir: c.lockDir(), out: s.out}
	if err := sys.checkKernel(); err != nil {
		return err
	}
	if old := oldSystemd(os.Getenv); old != "" {
		p.say("%s", old)
	}
	if !c.embedded() {
		if err := p.modules(ctx); err != nil {
			return err
		}
		if err := c.access(&p); err != nil {
			return err
		}
	}
	guest, err := c.open(sys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guest.Close()) }()
	vifs, err := wanted(ctx, guest, cfg)
	if err != nil {
		return err
	}
	var errs severalErrors
	errs.add(p.limit(ctx, guest, vifs))
	if !c.embedded() {
		errs.add(p.forestall(ctx, guest.Store, vifs))
		errs.add(p.claim(ctx, guest.Store, vifs))
	}
	return errs.orNil()
}

func (c *prepareCmd) access(p *preparer) error {
	var errs []error
	if c.Group != "" {
		errs = append(errs, p.accessGroup(c.Group))
	}
	if c.User != "" {
		errs = append(errs, p.accessUser(c.User, daemonDirs(c.xenFlags)...))
	}
	return errors.Join(errs...)
}

// wantedVif is a vif that is configured: one that the guest has, or one that is
// configured by its number and may be attached later.
type wantedVif struct {
	devid    int
	attached bool
	queues   int // asked for; 0: the default
}

// wanted returns the vifs that run would serve now, and those that it would wait for.
func wanted(ctx context.Context, guest *xen.Guest, cfg config.Config) ([]wantedVif, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	have, err := netfront.Vifs(ctx, guest.Store)
	if err != nil {
		return nil, err
	}
	var vifs []wantedVif
	attached := make(map[int]bool)
	for _, v := range have {
		if table, ok := cfg.For(v.DevID, v.MAC); ok {
			vifs = append(vifs, wantedVif{devid: v.DevID, attached: true, queues: table.Queues})
			attached[v.DevID] = true
		}
	}
	for _, table := range cfg.Vifs {
		if devid, ok := table.Match.DevID(); ok && !attached[devid] {
			vifs = append(vifs, wantedVif{devid: devid, queues: table.Queues})
		}
	}
	return vifs, nil
}

// preparer does the steps of prepare, in their order.
type preparer struct {
	sys     system
	bus     *kernelBus
	lockDir string
	out     io.Writer
}

func (p *preparer) say(format string, args ...any) {
	fmt.Fprintln(p.out, printable.Line(fmt.Sprintf(format, args...)))
}

// modules loads what is missing. A device tells better than a list of modules, which
// lacks what is built into the kernel.
func (p *preparer) modules(ctx context.Context) error {
	// Not on Xen, modprobe would only say that there is no such device.
	if err := p.sys.explainXen(fs.ErrNotExist); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := p.sys.unnote(); err != nil {
		p.say("an old note for the daemon is still there: %v", err)
	}
	there := func(path string) func() error {
		return func() error { _, err := os.Stat(path); return err }
	}
	for _, m := range []struct {
		name  string
		check func() error
	}{
		{xen.GntallocModule, there(p.sys.dev + "/xen/gntalloc")},
		{xen.EvtchnModule, there(p.sys.dev + "/xen/evtchn")},
		{"tun", p.sys.checkTUN}, // its device is there without it
	} {
		if m.check() == nil {
			p.say("module %s: there", m.name)
			continue
		}
		limited, cancel := context.WithTimeout(ctx, kernelLimit)
		err := p.bus.modprobe(limited, m.name)
		cancel()
		if err != nil {
			err = p.sys.explainLoad(m.name, err)
			if nerr := p.sys.note(m.name, err); nerr != nil {
				p.say("the daemon, which may not look, is not told: %v", nerr)
			}
			return err
		}
		if err := m.check(); err != nil {
			return fmt.Errorf("%w: %s was loaded, and its device is not there", err, m.name)
		}
		p.say("module %s: loaded", m.name)
	}
	return nil
}

// limit raises the limit of granted pages to what the vifs need together. A vif of which
// that cannot be found out is said, and needs what it would with any backend.
func (p *preparer) limit(ctx context.Context, guest *xen.Guest, vifs []wantedVif) error {
	need := 0
	var errs severalErrors
	for _, v := range vifs {
		n, err := v.pages(ctx, guest)
		if err != nil {
			errs.add(fmt.Errorf("vif %d: %w", v.devid, err))
			n = netfront.PagesNeeded(v.queues)
		}
		need += n
	}
	errs.add(p.raise(guest, need))
	return errs.orNil()
}

func (p *preparer) raise(guest *xen.Guest, need int) error {
	limit, err := guest.Grants.Limit()
	if err != nil {
		return err
	}
	if limit >= need {
		p.say("limit of granted pages: %d is enough for the %d that are needed", limit, need)
		return nil
	}
	if err := guest.Grants.RaiseLimit(need + netfront.SparePages()); err != nil {
		return err
	}
	raised, err := guest.Grants.Limit()
	if err != nil {
		return err
	}
	p.say("limit of granted pages: raised from %d to %d, %d are needed", limit, raised, need)
	return nil
}

// pages is how many pages the vif needs: for the queues that were asked for, or those
// that its backend offers if these are fewer.
func (v wantedVif) pages(ctx context.Context, guest *xen.Guest) (int, error) {
	if !v.attached {
		return netfront.PagesNeeded(v.queues), nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	r, err := netfront.Inspect(ctx, guest, netfront.Config{
		DevID: v.devid, Queues: v.queues, Features: netfront.AllFeatures(), Logger: zap.NewNop(),
	})
	if r != nil && r.Budget.Needed > 0 {
		return r.Budget.Needed, nil // that they are too many, or the backend silent, is no matter here
	}
	if errors.Is(err, netfront.ErrNoVif) {
		return netfront.PagesNeeded(v.queues), nil // detached meanwhile
	}
	return 0, err
}
