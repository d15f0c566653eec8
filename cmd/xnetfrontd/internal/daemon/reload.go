package daemon

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
)

// nextConfig is a configuration that the supervisor is to put into force.
type nextConfig struct {
	config.Config
	applied chan<- struct{} // closed when it is in force
}

// followReloads reads the configuration again after a signal, and after a request on the
// control socket, until ctx ends. A configuration with a mistake changes nothing. The result
// goes to the sender of the request, whose channel has room for it.
func (d *daemon) followReloads(ctx context.Context, now config.Config, requests <-chan chan<- error, configs chan<- nextConfig, m *manager) {
	for {
		var answer chan<- error
		select {
		case <-ctx.Done():
			return
		case <-d.Reload:
		case answer = <-requests:
		}
		m.reloading()
		err := d.apply(ctx, now, configs)
		if ctx.Err() != nil {
			return // the end of the server tells the client
		}
		if err != nil {
			d.Log.Error("the configuration stays as it was", logging.Problem(err), logging.Event(eventConfigRefused))
		}
		m.reloaded()
		if answer != nil {
			answer <- err
		}
	}
}

// apply reads the configuration, and returns when it is in force, or the error that keeps it
// from that.
func (d *daemon) apply(ctx context.Context, now config.Config, configs chan<- nextConfig) error {
	cfg, err := d.Load()
	if err != nil {
		return err
	}
	if cfg.Control != now.Control || cfg.Log != now.Log || cfg.Metrics != now.Metrics {
		d.Log.Warn("a change of control, log or metrics takes effect with a restart", logging.Event(eventNeedsRestart))
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
	d.Log.Info("configuration read again", zap.Int("tables", len(cfg.Vifs)), logging.Event(eventConfigRead))
	return nil
}

// Errors of a reload that takes longer than its client waits.
var (
	errNotRead    = errors.New("another reload takes too long: nothing was changed; see the daemon's log, and try again")
	errNotApplied = errors.New("the reload takes too long: see the daemon's log for its result")
)
