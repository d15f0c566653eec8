package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/guestvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/show"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// checkTimeout is how long xenstore may take to answer.
const checkTimeout = 10 * time.Second

type checkCmd struct {
	configFlags
	xenFlags
}

func (c *checkCmd) Help() string {
	return `Shows the TAP, address, backend, features, queues and granted pages of each vif that is
configured, or named by --vif. A line with PROBLEM says what would keep run from serving it.
Then the exit code is 1, or 3 if the machine or its kernel is the problem. Run it before the
start: a daemon that serves the vif already is a problem, too. Needs root.`
}

func (c *checkCmd) Run(s streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	sys := machine.Local()
	guest, err := c.xen().Open(sys)
	if err != nil {
		return err
	}
	if err := sys.Check(); err != nil {
		return errors.Join(err, guest.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	err = c.checkAll(ctx, cfg, guest, sys, s.out)
	return errors.Join(err, guest.Close())
}

// checkAll checks every vif that run would serve now, and names the tables that fit none.
func (c *checkCmd) checkAll(ctx context.Context, cfg config.Config, guest *xen.Guest, sys machine.System, out io.Writer) error {
	vifs, err := netfront.Vifs(ctx, guest.Store)
	if err != nil {
		return err
	}
	var problems failure.Several
	used := map[config.Selector]bool{}
	for _, p := range vifs {
		table, ok := cfg.For(p.DevID, p.MAC)
		if !ok {
			continue
		}
		used[table.Match] = true
		conf := guestvif.Config(table, p.DevID)
		conf.Logger = zap.NewNop()
		k := checker{guest: guest, devid: p.DevID, tap: table.TAPName(p.DevID), conf: conf, kernel: vifowner.NewKernel(sys.Sysfs), at: c.xen()}
		for _, p := range k.check(ctx) {
			problems = append(problems, fmt.Errorf("vif %d: %w", k.devid, p))
		}
		if err := k.print(out); err != nil {
			return err
		}
	}
	for _, table := range cfg.Vifs {
		if used[table.Match] {
			continue
		}
		has := guestvif.Have(table.Match, vifs)
		if _, err := fmt.Fprintf(out, "vif %s\n  %-9s run waits for it: %s\n", table.Match, "not there", has); err != nil {
			return err
		}
		if !table.Match.All() {
			problems = append(problems, fmt.Errorf("vif %s: %w: %s", table.Match, netfront.ErrNoVif, has))
		}
	}
	return problems.OrNil()
}

// checker checks one vif.
type checker struct {
	guest  *xen.Guest
	devid  int
	tap    string
	conf   netfront.Config
	kernel *vifowner.Kernel
	at     machine.Xen
	lines  bytes.Buffer
}

func (k *checker) line(name, format string, args ...any) {
	fmt.Fprintf(&k.lines, "  %-9s "+format+"\n", append([]any{name}, args...)...)
}

// check returns the problems that would keep run from serving the vif.
func (k *checker) check(ctx context.Context) []error {
	var problems []error
	problem := func(err error) {
		problems = append(problems, err)
		k.line("PROBLEM", "%s", printable.Error(err))
	}
	owned := false
	if who, ok := vifowner.Owner(k.at.LockDir(), k.devid); ok {
		owned = true
		problem(fmt.Errorf("another xnetfrontd serves it: %s; see xnetfrontd status", who))
	}
	if !k.at.Embedded() {
		if err := k.kernel.CheckFree(k.devid); err != nil {
			problem(err)
		} else {
			k.line("driver", "no kernel driver has it")
		}
	}
	if _, err := net.InterfaceByName(k.tap); err == nil && !owned {
		problem(guestvif.TAPTaken(k.tap))
	}
	r, err := netfront.Inspect(ctx, k.guest, k.conf)
	if err != nil && !silent(r) {
		problem(guestvif.ExplainOpen(ctx, k.guest, k.conf, err))
	}
	if r != nil {
		k.report(r)
	}
	return problems
}

// silent tells whether the backend has offered nothing since it is not there yet. That is no
// problem: run waits for it.
func silent(r *netfront.Report) bool {
	return r != nil && r.Queues == 0 && r.BackendState != netif.StateInitWait.String() && r.BackendState != netif.StateConnected.String()
}

// report describes the connection that run would make.
func (k *checker) report(r *netfront.Report) {
	k.line("link", "address %s, MTU %d", r.MAC, r.MTU)
	if r.MTURefused != "" {
		k.line("MTU", "the toolstack's cannot be used: %s", r.MTURefused)
	}
	k.line("state", "%s; the backend %s in domain %d is %s", r.State, r.Backend, r.BackendDomID, r.BackendState)
	if r.Queues == 0 {
		k.line("features", "nothing is offered yet; run waits for the backend")
		return
	}
	k.line("features", "%s", show.FeatureList(control.Features(r.Features)))
	for _, name := range slices.Sorted(maps.Keys(r.Missing)) {
		k.line("without", "%s: %s", name, r.Missing[name])
	}
	k.line("queues", "%d; the backend offers %d", r.Queues, r.BackendQueues)
	b := r.Budget
	k.line("grants", "%d pages for %d queues with full rings, limit %d for the whole guest", b.Needed, r.Queues, b.Limit)
	if b.Reduced {
		k.line("", "not enough: run raises the limit if it may, else it makes do with %d pages (queues: %d, buffers each way: %d)", b.Used, b.Queues, b.Maps)
	}
}

func (k *checker) print(w io.Writer) error {
	_, err := io.WriteString(w, printable.Text(fmt.Sprintf("vif %d on %s\n%s\n", k.devid, k.tap, strings.TrimRight(k.lines.String(), "\n"))))
	return err
}
