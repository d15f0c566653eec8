package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// teller tells systemd how the daemon does, if systemd listens. Its methods may be
// called by any goroutine. All but status block while systemd does not read.
type teller struct {
	log *zap.Logger
	new chan struct{}

	mu     sync.Mutex
	latest string
}

func newTeller(log *zap.Logger) *teller { return &teller{log: log, new: make(chan struct{}, 1)} }

// status has a summary told if it is another than the last one.
func (t *teller) status(summary string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if summary == t.latest {
		return
	}
	t.latest = summary
	select {
	case t.new <- struct{}{}:
	default:
	}
}

// run tells the latest summary whenever there is one, until ctx ends.
func (t *teller) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.new:
		}
		t.mu.Lock()
		summary := t.latest
		t.mu.Unlock()
		notify(t.log, "STATUS="+summary)
	}
}

func (t *teller) ready()    { notify(t.log, daemon.SdNotifyReady) }
func (t *teller) reloaded() { notify(t.log, daemon.SdNotifyReady) }
func (t *teller) alive()    { notify(t.log, daemon.SdNotifyWatchdog) }
func (t *teller) stopping() { notify(t.log, daemon.SdNotifyStopping) }

// reloading is what Type=notify-reload waits for (sd_notify(3)).
func (t *teller) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.log.Warn("no clock", zap.Error(err))
	}
	notify(t.log, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// notify tells systemd, if it listens.
func notify(log *zap.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", zap.String("state", state), zap.Error(err))
	}
}
