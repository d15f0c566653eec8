package main

import (
	"context"
	"runtime"
	"time"

	"go.uber.org/zap"
)

// stacks are those of all goroutines.
func stacks() string {
	const most = 64 << 10 // for the journal's sake
	b := make([]byte, most)
	return string(b[:runtime.Stack(b, true)])
}

// feedWatchdog calls feed three times in each interval, which is how long systemd
// waits before it kills a service, for as long as alive does not fail: a hang of a
// single queue is one of the whole daemon then, and a new process ends it. It returns
// when ctx ends.
func feedWatchdog(ctx context.Context, interval time.Duration, alive func(timeout time.Duration) error, feed func(), log *zap.Logger) {
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	fed := true
	for {
		err := alive(interval / 3)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			feed()
		case fed: // once is enough: there is no more to be said before the end
			log.Error("the watchdog is not fed", problem(err), zap.Duration("limit", interval), event(eventUnfed))
			// Apart: should the runtime itself be stuck, this does not return.
			log.Error("what the daemon does instead", zap.String("stack", stacks()), event(eventUnfed))
		}
		fed = err == nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
