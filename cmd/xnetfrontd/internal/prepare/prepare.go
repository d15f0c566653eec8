// Package prepare does what a daemon needs and may not do itself where it runs without
// privileges: it loads modules, gives a group or a user the devices, raises the limit of
// granted pages, and takes vifs from the kernel's driver.
package prepare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// checkTimeout is how long xenstore may take to answer.
const checkTimeout = 10 * time.Second

// Options say what is prepared, and for whom.
type Options struct {
	System machine.System
	Xen    machine.Xen
	Config config.Config
	Group  string    // gets the devices of Xen; empty: none
	User   string    // gets them, and the files of another user's daemon; empty: none
	Out    io.Writer // gets a line for each step
}

// Run prepares the vifs of a configuration. It leaves alone what is in place, so it can run
// at any time.
func Run(ctx context.Context, o Options) (err error) {
	p := preparer{sys: o.System, kernel: vifowner.NewKernel(o.System.Sysfs), lockDir: o.Xen.LockDir(), out: o.Out}
	if err := p.sys.CheckKernel(); err != nil {
		return err
	}
	if old := machine.OldSystemd(os.Getenv); old != "" {
		p.say("%s", old)
	}
	if !o.Xen.Embedded() {
		if err := p.modules(ctx); err != nil {
			return err
		}
		if err := p.access(o); err != nil {
			return err
		}
	}
	guest, err := o.Xen.Open(p.sys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guest.Close()) }()
	vifs, err := wanted(ctx, guest, o.Config)
	if err != nil {
		return err
	}
	var errs failure.Several
	errs.Add(p.limit(ctx, guest, vifs))
	if !o.Xen.Embedded() {
		errs.Add(p.preload(ctx, guest.Store, vifs))
		errs.Add(p.take(ctx, guest.Store, vifs))
	}
	return errs.OrNil()
}

func (p *preparer) access(o Options) error {
	var errs []error
	if o.Group != "" {
		errs = append(errs, p.accessGroup(o.Group))
	}
	if o.User != "" {
		errs = append(errs, p.accessUser(o.User, o.Xen.LockDir(), filepath.Dir(hold.DefaultSocket)))
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
	sys     machine.System
	kernel  *vifowner.Kernel
	lockDir string
	out     io.Writer
}

func (p *preparer) say(format string, args ...any) {
	fmt.Fprintln(p.out, printable.Line(fmt.Sprintf(format, args...)))
}

// modules loads the modules that are missing. It looks for their devices: a list of loaded
// modules lacks those that are built into the kernel.
func (p *preparer) modules(ctx context.Context) error {
	// Outside of Xen, modprobe would only say that there is no such device.
	if err := p.sys.ExplainXen(fs.ErrNotExist); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := p.sys.Unnote(); err != nil {
		p.say("an old note for the daemon is still there: %v", err)
	}
	there := func(path string) func() error {
		return func() error { _, err := os.Stat(path); return err }
	}
	for _, m := range []struct {
		name  string
		check func() error
	}{
		{xen.GntallocModule, there(p.sys.Dev + "/xen/gntalloc")},
		{xen.EvtchnModule, there(p.sys.Dev + "/xen/evtchn")},
		{"tun", p.sys.CheckTUN}, // its device is there without it
	} {
		if m.check() == nil {
			p.say("module %s: there", m.name)
			continue
		}
		limited, cancel := context.WithTimeout(ctx, vifowner.Limit)
		err := p.kernel.Modprobe(limited, m.name)
		cancel()
		if err != nil {
			err = p.sys.ExplainLoad(m.name, err)
			if nerr := p.sys.Note(m.name, err); nerr != nil {
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

// limit raises the limit of granted pages to what the vifs need together. If it cannot find
// out what a vif needs, it reports that, and takes the need with any backend.
func (p *preparer) limit(ctx context.Context, guest *xen.Guest, vifs []wantedVif) error {
	need := 0
	var errs failure.Several
	for _, v := range vifs {
		n, err := v.pages(ctx, guest)
		if err != nil {
			errs.Add(fmt.Errorf("vif %d: %w", v.devid, err))
			n = netfront.PagesNeeded(v.queues)
		}
		need += n
	}
	errs.Add(p.raise(guest, need))
	return errs.OrNil()
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

// pages is the number of pages that the vif needs: for the queues that were asked for, or
// for those that its backend offers, if these are fewer.
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
		return r.Budget.Needed, nil // whatever the limit is, and whether the backend answers or not
	}
	if errors.Is(err, netfront.ErrNoVif) {
		return netfront.PagesNeeded(v.queues), nil // detached meanwhile
	}
	return 0, err
}
