package main

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/controlserver"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/metrics"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/privilege"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

type runCmd struct {
	configFlags
	xenFlags
	holdFlags
}

func (c *runCmd) Help() string {
	return `Says READY=1 to systemd as soon as the TAP of every vif that is there exists: a guest
must boot while its backend is down. A vif that is attached later is served then, and
one that is detached keeps its TAP, as the configuration says.

    SIGTERM, SIGINT  stop: close the vifs and leave them as the toolstack made
                     them, free for any other frontend, with no grant and no
                     TAP behind; but for those with stop = "leave", and those
                     whose backend does not survive that (Mirage's), as below
    SIGUSR2          leave everything as it is for the next process, where there
                     is a holder (xnetfrontd hold) that keeps it; else the same
                     as SIGTERM
    SIGHUP           read the configuration again; vifs of which nothing changes
                     go on

A second signal, or a stop that takes longer than 10 s, ends it with exit code 1. So
does a start that finds nothing it can serve, as when another daemon serves it all.`
}

func (c *runCmd) Run(streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	log, err := newLogger(cfg.Log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }() // fails on terminals and pipes, with nothing lost
	sys := newSystem()
	if err := sys.checkKernel(); err != nil {
		return err
	}
	privileged, err := privilege.Drop()
	if err != nil {
		log.Warn("capabilities stay in effect", zap.Error(err))
	}
	restrictUring(log)
	sig := catchSignals(log, unix.SIGUSR2, unix.SIGHUP)
	defer sig.close()
	d := daemonRun{xen: c.xenFlags, sys: sys, log: log, load: c.load, holder: c.socket(c.embedded()), privileged: privileged}
	return d.serve(sig.ctx, cfg, sig.reload)
}

// restrictUring takes from this process what rings could do past the sandbox's filter.
// Where that is not possible the daemon runs as it always did: docs/security.md says what
// that means, and log lines at every start would not help those with an older kernel.
func restrictUring(log *zap.Logger) {
	if err := tap.RestrictUring(); err != nil {
		log.Debug("io_uring is as the kernel and the sandbox have it", problem(err))
	}
}

// daemonRun is one run of the daemon.
type daemonRun struct {
	xen  xenFlags
	sys  system
	log  *zap.Logger
	load func() (config.Config, error) // reads the configuration again

	holder     string         // the holder's socket; empty: nothing is handed over
	privileged privilege.Call // as in place
}

// serve is the daemon: it makes the TAPs, tells systemd, and serves the vifs until ctx
// ends. With netfront.ErrLeave as the cause of that, the vifs are left as they are.
func (d *daemonRun) serve(ctx context.Context, cfg config.Config, reload <-chan struct{}) (err error) {
	passed := metrics.Passed(d.log) // before any process is started
	super := newSupervisor(cfg, d.log)
	at := place{xen: d.xen, sys: d.sys, cfg: &super.cfg, log: d.log, privileged: d.privileged, watches: new(netfront.Watches)}
	scan := &scanner{place: at}
	vifs, err := scan.open(ctx) // before any holder: one that is not needed is none to wait for
	if err != nil {
		return unlessStopped(ctx, err)
	}
	var keeper *hold.Keeper
	if d.holder != "" {
		keeper = startKeeper(ctx, d.holder, d.log)
		defer func() { err = errors.Join(err, endKeeper(keeper, d.log)) }()
		at.holder = vifHolder{keeper}
	}
	super.make = func(table config.Vif, devid int, mac net.HardwareAddr) steps {
		return newVif(at, table, devid, mac)
	}
	if keeper != nil {
		at.dropStale(ctx, keeper, cfg, scan.guest.Store)
	}
	inner, stopInner := context.WithCancel(ctx)
	var parts sync.WaitGroup // what serves no vif
	defer func() {
		stopInner()
		parts.Wait()
		err = errors.Join(err, scan.close())
	}()
	if err := super.start(ctx, vifs); err != nil {
		super.stop(nil)
		return unlessStopped(ctx, err)
	}
	report := newReporter(super, at.watches, d.log)
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

	tell := newTeller(d.log)
	tell.ready()
	d.log.Info("ready", zap.String("version", version), zap.String("control", cfg.Control), event(eventReady))
	scans, configs := make(chan []netfront.Vif), make(chan nextConfig)
	parts.Go(func() { tell.run(inner) })
	parts.Go(func() { scan.run(inner, scans) })
	parts.Go(func() { d.reread(inner, cfg, rereads{signal: reload, asked: report.rereads}, configs, tell) })
	if limit, err := daemon.SdWatchdogEnabled(false); err != nil {
		d.log.Warn("systemd's watchdog is left alone", zap.Error(err))
	} else if limit > 0 {
		parts.Go(func() { feedWatchdog(inner, limit, super.alive, tell.alive, d.log) })
	}
	super.run(ctx, scans, configs, func() { tell.status(summary(super)) })

	tell.stopping()
	cause := d.cause(ctx, keeper)
	super.stopEach(d.causeOfEach(cause, keeper))
	report.captures.wait(captureFarewell)
	d.log.Info("stopped", zap.Bool("left_to_the_next", errors.Is(cause, netfront.ErrLeave)), event(eventStopped))
	return nil
}

// cause is why the daemon ends: to leave everything takes a holder that has it.
func (d *daemonRun) cause(ctx context.Context, keeper *hold.Keeper) error {
	cause := context.Cause(ctx)
	if !errors.Is(cause, netfront.ErrLeave) {
		return cause
	}
	err := errors.New("there is none")
	if keeper != nil {
		err = syncKeeper(keeper)
	}
	if err != nil {
		d.log.Warn("stopping instead of leaving everything to the next process: the holder does not have it", problem(err), event(hold.EventNoHolder))
		return context.Canceled
	}
	return cause
}

// causeOfEach is why each vif ends: a stop leaves those that it shall leave to the next
// process, which takes a holder that has them.
func (d *daemonRun) causeOfEach(cause error, keeper *hold.Keeper) func(*service) error {
	synced := sync.OnceValue(func() error {
		if keeper == nil {
			return errors.New("there is none")
		}
		return syncKeeper(keeper)
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
				problem(err), event(hold.EventNoHolder))
			return cause
		}
		if lost {
			v.log.Info("leaving the vif to the next process: its backend would remove it, were it closed", event(eventNotClosed))
		}
		return netfront.ErrLeave
	}
}

// unlessStopped is err, or nil when somebody has told the daemon to end while it
// started.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
