package daemon

import (
	"context"
	"runtime"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
)

// stacks returns the stacks of all goroutines.
func stacks() string {
	const most = 64 << 10 // for the journal's sake
	b := make([]byte, most)
	return string(b[:runtime.Stack(b, true)])
}

// feedWatchdog calls feed three times in each interval, as long as alive does not fail, until
// ctx ends. systemd kills a service that it has not heard from for an interval. So the hang of
// a single queue counts as one of the whole daemon, and a new process ends it.
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
		case fed: // the first failure since it was fed
			log.Error("the watchdog is not fed", logging.Problem(err), zap.Duration("limit", interval), logging.Event(eventUnfed))
			// A line of its own: if the runtime is stuck, this call does not return.
			log.Error("stacks of all goroutines", zap.String("stack", stacks()), logging.Event(eventUnfed))
		}
		fed = err == nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
