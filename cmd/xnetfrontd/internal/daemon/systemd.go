package daemon

import (
	"context"
	"fmt"
	"sync"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// manager is systemd, which the daemon notifies of its state if systemd listens. Any
// goroutine may call its methods. All but status block while systemd does not read.
type manager struct {
	log *zap.Logger
	new chan struct{} // there is another summary

	mu     sync.Mutex
	latest string
}

func newManager(log *zap.Logger) *manager { return &manager{log: log, new: make(chan struct{}, 1)} }

// status has run send a summary, if it is another than the last one.
func (m *manager) status(summary string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if summary == m.latest {
		return
	}
	m.latest = summary
	select {
	case m.new <- struct{}{}:
	default:
	}
}

// run sends each summary, or the latest where several are waiting, until ctx ends.
func (m *manager) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.new:
		}
		m.mu.Lock()
		summary := m.latest
		m.mu.Unlock()
		Notify(m.log, "STATUS="+summary)
	}
}

func (m *manager) ready()    { Notify(m.log, sd.SdNotifyReady) }
func (m *manager) reloaded() { Notify(m.log, sd.SdNotifyReady) }
func (m *manager) alive()    { Notify(m.log, sd.SdNotifyWatchdog) }
func (m *manager) stopping() { Notify(m.log, sd.SdNotifyStopping) }

// reloading sends what Type=notify-reload waits for (sd_notify(3)).
func (m *manager) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		m.log.Warn("the clock cannot be read", zap.Error(err))
	}
	Notify(m.log, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, now.Nano()/1000))
}

// Notify sends a state to systemd, if systemd listens (sd_notify(3)).
func Notify(log *zap.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Warn("systemd could not be notified", zap.String("state", state), zap.Error(err))
	}
}
