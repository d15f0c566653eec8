package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/control"
)

// stopLimit is the longest that a stop takes. A backend that is alive needs a
// fraction of a second and a dead one not much more; what is still there then is a
// fault, and the kernel frees it better than we do.
const stopLimit = 10 * time.Second

type runCmd struct {
	configFlags
	xenFlags
}

func (c *runCmd) Help() string {
	return `Says READY=1 to systemd as soon as every TAP exists: a guest must boot while its
backend is down. A stop closes the vif and leaves it as the toolstack made it, free
for any other frontend, with its grants freed and no TAP behind. A second signal, or
a stop that takes longer than 10 s, ends it with exit code 1.`
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
	ctx, stopped := untilSignal(log)
	defer stopped()
	return serve(ctx, cfg, c.xenFlags, newSystem(), log)
}

// untilSignal returns a context that ends with SIGTERM or SIGINT. From then on a
// second signal, or stopLimit, ends the process with exit code 1. The function that
// it returns ends the watch.
func untilSignal(log *zap.Logger) (context.Context, func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer cancel()
		select {
		case <-done:
			return
		case s := <-signals:
			log.Info("stopping", zap.Stringer("signal", s))
			cancel()
		}
		select {
		case <-done:
		case s := <-signals:
			log.Error("forced to stop by a second signal", zap.Stringer("signal", s))
			os.Exit(exitRuntime)
		case <-time.After(stopLimit):
			log.Error("stop took too long: ending as it is", zap.Duration("limit", stopLimit))
			os.Exit(exitRuntime)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
	}
}

// serve is the daemon: it opens every vif, tells systemd, and serves them until ctx
// ends or none of them can be served any more. An error of one vif leaves the others
// alone.
func serve(ctx context.Context, cfg config.Config, x xenFlags, sys system, log *zap.Logger) (err error) {
	vifs, err := openVifs(ctx, cfg.Vifs, x, sys, log)
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while it started
		}
		return err
	}
	defer func() { err = errors.Join(err, closeVifs(vifs)) }()
	server, err := control.NewServer(cfg.Control, newReporter(vifs).status)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()

	notify(log, daemon.SdNotifyReady+"\nSTATUS="+summary(vifs))
	log.Info("ready", zap.String("version", version), zap.String("control", cfg.Control))
	var serving sync.WaitGroup
	for _, v := range vifs {
		serving.Go(func() { v.run(ctx) })
	}
	served := make(chan struct{})
	go func() {
		serving.Wait()
		close(served)
	}()
	select {
	case <-ctx.Done():
	case <-served:
	}
	if ctx.Err() == nil {
		return errors.New("no vif is served any more: " + summary(vifs))
	}
	notify(log, daemon.SdNotifyStopping)
	<-served
	log.Info("stopped")
	return nil
}

// notify tells systemd, if it listens.
func notify(log *zap.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", zap.String("state", state), zap.Error(err))
	}
}

// summary is one line about every vif.
func summary(vifs []*vif) string {
	texts := make([]string, len(vifs))
	for i, v := range vifs {
		texts[i] = fmt.Sprintf("vif %d: TAP %s", v.conf.DevID, v.conf.TAP)
		if p := v.trouble(); p != "" {
			texts[i] = fmt.Sprintf("vif %d: not served: %s", v.conf.DevID, p)
		}
	}
	return strings.Join(texts, ", ")
}
