package daemon

import (
	"context"
	"os"
	"os/signal"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// stopLimit is the longest time that a stop takes. It takes a fraction of a second with a
// backend that is alive, and little more with a dead one. A longer stop is a fault, and then
// the kernel frees everything when the process ends.
const stopLimit = 10 * time.Second

// Signals are the signals that tell the daemon to stop or to reload.
type Signals struct {
	Context context.Context // ends with SIGTERM or SIGINT, and with the cause [netfront.ErrLeave] on SIGUSR2
	Reload  <-chan struct{} // SIGHUP; several that wait are one
	log     *zap.Logger
	reload  chan struct{}
	end     context.CancelCauseFunc
	in      chan os.Signal
	done    chan struct{}
}

// CatchSignals begins to watch for SIGTERM, SIGINT and those in more. After the first that ends
// the context, a second such signal, or stopLimit, ends the process with exit code 1.
func CatchSignals(log *zap.Logger, more ...os.Signal) *Signals {
	s := &Signals{log: log, reload: make(chan struct{}, 1), in: make(chan os.Signal, 8), done: make(chan struct{})}
	s.Reload = s.reload
	s.Context, s.end = context.WithCancelCause(context.Background())
	signal.Notify(s.in, append(more, unix.SIGTERM, unix.SIGINT)...)
	go s.watch()
	return s
}

// Close ends the watch.
func (s *Signals) Close() {
	signal.Stop(s.in)
	close(s.done)
}

func (s *Signals) watch() {
	defer s.end(nil)
	if !s.untilEnd() {
		return
	}
	limit := time.After(stopLimit)
	for {
		select {
		case <-s.done:
			return
		case sig := <-s.in:
			if sig == unix.SIGHUP {
				continue
			}
			s.log.Error("forced to stop by a second signal", zap.Stringer("signal", sig), logging.Event(eventForced))
		case <-limit:
			s.log.Error("stop took too long: ending as it is", zap.Duration("limit", stopLimit), logging.Event(eventForced))
		}
		_ = s.log.Sync() // writes the count of the repeats that were left out
		os.Exit(failure.ExitRuntime)
	}
}

// untilEnd returns true when a signal has ended the context, and false after Close.
func (s *Signals) untilEnd() bool {
	for {
		select {
		case <-s.done:
			return false
		case sig := <-s.in:
			switch sig {
			case unix.SIGHUP:
				select {
				case s.reload <- struct{}{}:
				default:
				}
				continue
			case unix.SIGUSR2:
				s.log.Info("leaving", zap.Stringer("signal", sig), logging.Event(eventStopping))
				s.end(netfront.ErrLeave)
			default:
				s.log.Info("stopping", zap.Stringer("signal", sig), logging.Event(eventStopping))
				s.end(nil)
			}
			return true
		}
	}
}
