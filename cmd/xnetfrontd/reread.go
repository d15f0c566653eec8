package main

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
)

// rereads are who wants the configuration to be read again.
type rereads struct {
	signal <-chan struct{}     // SIGHUP
	asked  <-chan chan<- error // the control socket; gets what came of it, without waiting for it to be taken
}

// nextConfig is a configuration that the supervisor is to go by.
type nextConfig struct {
	config.Config
	applied chan<- struct{} // closed when it does
}

// reread reads the configuration again whenever somebody wants it, until ctx ends. One
// that cannot be used changes nothing.
func (d *daemonRun) reread(ctx context.Context, now config.Config, wanted rereads, configs chan<- nextConfig, tell *teller) {
	for {
		var answer chan<- error
		select {
		case <-ctx.Done():
			return
		case <-wanted.signal:
		case answer = <-wanted.asked:
		}
		tell.reloading()
		err := d.apply(ctx, now, configs)
		if ctx.Err() != nil {
			return // who asked is told by the server's end
		}
		if err != nil {
			d.log.Error("the configuration stays as it was", problem(err), event(eventConfigRefused))
		}
		tell.reloaded()
		if answer != nil {
			answer <- err
		}
	}
}

// apply reads the configuration and returns when the supervisor goes by it, or why it
// does not.
func (d *daemonRun) apply(ctx context.Context, now config.Config, configs chan<- nextConfig) error {
	cfg, err := d.load()
	if err != nil {
		return err
	}
	if cfg.Control != now.Control || cfg.Log != now.Log || cfg.Metrics != now.Metrics {
		d.log.Warn("a change of control, log or metrics takes effect with a restart", event(eventNeedsRestart))
	}
	applied := make(chan struct{})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case configs <- nextConfig{cfg, applied}:
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-applied:
	}
	d.log.Info("configuration read again", zap.Int("tables", len(cfg.Vifs)), event(eventConfigRead))
	return nil
}

// A reload that was asked for and did not get through while somebody waited for it.
var (
	errNotReread  = errors.New("another reload takes too long: nothing was changed; see the daemon's log, and try again")
	errNotApplied = errors.New("the reload takes too long: see the daemon's log for what comes of it")
)
