package netfront

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

func TestTheEndOfAConnectionIsOfTheEventThatItWas(t *testing.T) {
	closed := fmt.Errorf("%w: it is Closing", errBackendClosed)
	for _, c := range []struct {
		err   error
		cause string
		event string
		level zapcore.Level
	}{
		{violation("rsp_prod"), "violation", EventViolation, zap.ErrorLevel},
		{errors.Join(closed, violation("rsp_prod")), "violation", EventViolation, zap.ErrorLevel},
		{&panicError{"index", "stack"}, "panic", EventPanic, zap.ErrorLevel},
		{fmt.Errorf("plan: %w", ErrBudget), "grants", EventGrants, zap.ErrorLevel},
		{closed, "backend-closed", EventBackendClosed, zap.WarnLevel},
		{errors.Join(closed, errUnplugged), "detached", EventDetached, zap.WarnLevel},
		{errMoved, "detached", EventDetached, zap.WarnLevel},
		{errors.Join(closed, errRestored), "restored", EventRestored, zap.InfoLevel},
		{errStalled, "stalled", EventStuck, zap.WarnLevel},
		{errNoProgress, "no-progress", EventStuck, zap.WarnLevel},
		{errors.New("read"), "error", EventDisconnected, zap.WarnLevel},
	} {
		why := cause(c.err)
		event, level := ending(why)
		if why != c.cause || event != c.event || level != c.level {
			t.Errorf("%v: cause %s, event %s, level %s; want %s, %s, %s", c.err, why, event, level, c.cause, c.event, c.level)
		}
	}
}

func TestAVifThatTheToolstackDetachesIsNotABackendThatCloses(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: zap.New(core)}})
	w.connected(1)
	w.check(xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, 0, 10*time.Second))
	w.eventually("the end of the connection", func() bool { return logs.FilterMessage("disconnected").Len() > 0 })
	l := logs.FilterMessage("disconnected").All()[0]
	if f := l.ContextMap(); f["cause"] != "detached" || f["message_id"] != EventDetached ||
		f["error"] != "the backend closed the vif: it is Closing; the toolstack has detached the vif" {
		t.Errorf("it is logged as %v", f)
	}
	if n := w.dev.Status().Ended["detached"]; n != 1 {
		t.Errorf("%d connections ended for that", n)
	}
	w.vif = nil
}
