package daemon

import (
	"context"
	"net"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/metrics"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
)

// startMetrics serves the daemon's metrics on the sockets of the configuration, and on those
// that systemd has passed. It logs a socket that it cannot have, and goes on: the vifs are
// served all the same.
func (d *daemon) startMetrics(cfg config.Metrics, passed []net.Listener, report reporter, keeper *hold.Keeper) (*metrics.Server, error) {
	// The machine's own socket is for the machine's own vifs.
	if d.Xen.Embedded() && cfg.Socket == config.DefaultMetrics {
		cfg.Socket = ""
	}
	source := metrics.Source{Status: report.Status, Panicked: report.Panicked}
	if keeper != nil {
		source.HandoverReady = func() bool { return holderHasAll(keeper) }
	}
	registry, err := metrics.NewRegistry(source)
	if err != nil {
		return nil, err
	}
	return metrics.Start(metrics.Options{Socket: cfg.Socket, Listen: cfg.Listen, Passed: passed, Log: d.Log}, registry, d.Version), nil
}

// holderHasAll tells, without waiting, whether the holder has everything.
func holderHasAll(keeper *hold.Keeper) bool {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	return keeper.Sync(now) == nil
}
