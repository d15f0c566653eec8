package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// stopLimit is the longest that a stop takes. A backend that is alive needs a
// fraction of a second and a dead one not much more; what is still there then is a
// fault, and the kernel frees it better than we do.
const stopLimit = 10 * time.Second

// signals are what the process is asked to do from outside.
type signals struct {
	log    *zap.Logger
	ctx    context.Context // ends with SIGTERM or SIGINT; with the cause netfront.ErrLeave on SIGUSR2
	reload chan struct{}   // SIGHUP; one more than one that waits is the same
	end    context.CancelCauseFunc
	in     chan os.Signal
	done   chan struct{}
}

// catchSignals begins to watch for signals: SIGTERM and SIGINT, and those in more.
// Once one has ended the context, a second one that could, or stopLimit, ends the
// process with exit code 1.
func catchSignals(log *zap.Logger, more ...os.Signal) *signals {
	s := &signals{log: log, reload: make(chan struct{}, 1), in: make(chan os.Signal, 8), done: make(chan struct{})}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	signal.Notify(s.in, append(more, unix.SIGTERM, unix.SIGINT)...)
	go s.watch()
	return s
}

// close ends the watch.
func (s *signals) close() {
	signal.Stop(s.in)
	close(s.done)
}

func (s *signals) watch() {
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
			s.log.Error("forced to stop by a second signal", zap.Stringer("signal", sig), event(eventForced))
		case <-limit:
			s.log.Error("stop took too long: ending as it is", zap.Duration("limit", stopLimit), event(eventForced))
		}
		_ = s.log.Sync() // what is left out so far is told
		os.Exit(exitRuntime)
	}
}

// untilEnd returns true when a signal has ended the context, and false when nobody
// wants to know any more.
func (s *signals) untilEnd() bool {
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
				s.log.Info("leaving", zap.Stringer("signal", sig), event(eventStopping))
				s.end(netfront.ErrLeave)
			default:
				s.log.Info("stopping", zap.Stringer("signal", sig), event(eventStopping))
				s.end(nil)
			}
			return true
		}
	}
}

// untilSignal returns a context that ends with SIGTERM or SIGINT, for what knows of
// no other signals. The function that it returns ends the watch.
func untilSignal(log *zap.Logger) (context.Context, func()) {
	s := catchSignals(log)
	return s.ctx, s.close
}
