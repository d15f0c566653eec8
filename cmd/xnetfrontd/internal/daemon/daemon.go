package daemon

import (
	"context"
	"errors"
	"net"
	"sync"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/controlserver"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/heldvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/metrics"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/privilege"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// Options say where and how a daemon runs.
type Options struct {
	Xen     machine.Xen
	System  machine.System
	Log     *zap.Logger
	Version string // of the program

	Load   func() (config.Config, error) // reads the configuration again
	Reload <-chan struct{}               // has the daemon do so

	Holder     string         // socket of the holder; empty: nothing is handed over
	Privileged privilege.Call // calls what needs CAP_NET_ADMIN; nil: it is in effect
}

// Run is the daemon: it makes the TAPs, tells systemd that it is ready, and serves the vifs
// until ctx ends. With [netfront.ErrLeave] as the cause of ctx, it leaves the vifs to the
// next process.
func Run(ctx context.Context, cfg config.Config, o Options) error {
	d := daemon{Options: o}
	return d.serve(ctx, cfg)
}

// daemon is one run of the daemon.
type daemon struct{ Options }

func (d *daemon) serve(ctx context.Context, cfg config.Config) (err error) {
	passed := metrics.Passed(d.Log) // before any process is started
	super := newSupervisor(cfg, d.Log)
	at := place{
		xen: d.Xen, sys: d.System, kernel: vifowner.NewKernel(d.System.Sysfs), cfg: &super.cfg, log: d.Log,
		privileged: d.Privileged, watches: new(netfront.Watches),
	}
	scan := &scanner{place: at}
	vifs, err := scan.open(ctx) // before the holder: without Xen there is no use in waiting for that
	if err != nil {
		return unlessStopped(ctx, err)
	}
	var keeper *hold.Keeper
	if d.Holder != "" {
		keeper = heldvif.StartKeeper(ctx, d.Holder, d.Log)
		defer func() { err = errors.Join(err, heldvif.EndKeeper(keeper, d.Log)) }()
		at.holder = heldvif.New(keeper)
	}
	super.make = func(table config.Vif, devid int, mac net.HardwareAddr) steps {
		return newVif(at, table, devid, mac)
	}
	if keeper != nil {
		at.dropStale(ctx, keeper, cfg, scan.guest.Store)
	}
	inner, stopInner := context.WithCancel(ctx)
	var parts sync.WaitGroup // goroutines that serve no vif
	defer func() {
		stopInner()
		parts.Wait()
		err = errors.Join(err, scan.close())
	}()
	if err := super.start(ctx, vifs); err != nil {
		super.stop(nil)
		return unlessStopped(ctx, err)
	}
	report := newReporter(super, at.watches, d.Log, d.Version)
	server, err := controlserver.New(cfg.Control, report)
	if err != nil {
		super.stop(nil)
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	figures, err := d.startMetrics(cfg.Metrics, passed, report, keeper)
	if err != nil {
		super.stop(nil)
		return err
	}
	defer func() { err = errors.Join(err, figures.Close()) }()

	manager := newManager(d.Log)
	manager.ready()
	d.Log.Info("ready", zap.String("version", d.Version), zap.String("control", cfg.Control), logging.Event(eventReady))
	scans, configs := make(chan []netfront.Vif), make(chan nextConfig)
	parts.Go(func() { manager.run(inner) })
	parts.Go(func() { scan.run(inner, scans) })
	parts.Go(func() { d.followReloads(inner, cfg, report.reloads, configs, manager) })
	if limit, err := sd.SdWatchdogEnabled(false); err != nil {
		d.Log.Warn("systemd's watchdog cannot be served", zap.Error(err))
	} else if limit > 0 {
		parts.Go(func() { feedWatchdog(inner, limit, super.alive, manager.alive, d.Log) })
	}
	super.run(ctx, scans, configs, func() { manager.status(summary(super)) })

	manager.stopping()
	cause := d.cause(ctx, keeper)
	super.stopEach(d.causeOfEach(cause, keeper))
	report.captures.wait(captureGrace)
	d.Log.Info("stopped", zap.Bool("left_to_the_next", errors.Is(cause, netfront.ErrLeave)), logging.Event(eventStopped))
	return nil
}

// cause is the cause with which the vifs are stopped. The daemon can leave them to the next
// process only if a holder has everything.
func (d *daemon) cause(ctx context.Context, keeper *hold.Keeper) error {
	cause := context.Cause(ctx)
	if !errors.Is(cause, netfront.ErrLeave) {
		return cause
	}
	err := errors.New("there is none")
	if keeper != nil {
		err = heldvif.Sync(keeper)
	}
	if err != nil {
		d.Log.Warn("stopping instead of leaving everything to the next process: the holder does not have it", logging.Problem(err), logging.Event(hold.EventNoHolder))
		return context.Canceled
	}
	return cause
}

// causeOfEach returns the cause with which each vif is stopped. A stop leaves a vif to the
// next process if the configuration says so, or if its backend would remove the vif; for that
// a holder must have the vif.
func (d *daemon) causeOfEach(cause error, keeper *hold.Keeper) func(*service) error {
	synced := sync.OnceValue(func() error {
		if keeper == nil {
			return errors.New("there is none")
		}
		return heldvif.Sync(keeper)
	})
	return func(v *service) error {
		stop := v.identity().table.Stop
		f := v.frontend()
		lost := stop == config.StopAuto && f != nil && f.LostByClose()
		if errors.Is(cause, netfront.ErrLeave) || stop != config.StopLeaves && !lost {
			return cause
		}
		if err := synced(); err != nil {
			v.log.Warn("closing a vif instead of leaving it to the next process: the holder does not have it",
				logging.Problem(err), logging.Event(hold.EventNoHolder))
			return cause
		}
		if lost {
			v.log.Info("leaving the vif to the next process: its backend would remove a closed vif", logging.Event(eventNotClosed))
		}
		return netfront.ErrLeave
	}
}

// unlessStopped is err, or nil if the daemon was told to stop while it started.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
