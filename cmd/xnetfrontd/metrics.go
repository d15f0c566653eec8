package main

import (
	"context"
	"net"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/metrics"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
)

// startMetrics serves the daemon's figures on the sockets of the configuration, and on
// those that systemd has passed. A socket that cannot be had is logged and no error: the
// vifs are served all the same.
func (d *daemonRun) startMetrics(cfg config.Metrics, passed []net.Listener, report reporter, keeper *hold.Keeper) (*metrics.Server, error) {
	// As with the holder's: the machine's own socket is for the machine's own vifs.
	if d.xen.embedded() && cfg.Socket == config.DefaultMetrics {
		cfg.Socket = ""
	}
	source := metrics.Source{Status: report.Status, Panicked: report.Panicked}
	if keeper != nil {
		source.HandoverReady = func() bool { return handedOver(keeper) }
	}
	registry, err := metrics.NewRegistry(source)
	if err != nil {
		return nil, err
	}
	return metrics.Start(metrics.Options{Socket: cfg.Socket, Listen: cfg.Listen, Passed: passed, Log: d.log}, registry, version), nil
}

// handedOver tells, without waiting, whether the holder has everything.
func handedOver(keeper *hold.Keeper) bool {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	return keeper.Sync(now) == nil
}
