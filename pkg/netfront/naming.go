package netfront

import (
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// WithTAP is log with the field tap, which is the TAP's name at the time of each line: somebody
// may rename it. Where name returns none it is the last one, and first that in the
// configuration. Name may be called by any goroutine that logs.
func WithTAP(log *zap.Logger, configured string, name func() string) *zap.Logger {
	var last atomic.Pointer[string]
	last.Store(&configured)
	field := func() zapcore.Field {
		n := name()
		if n == "" {
			n = *last.Load()
		} else {
			last.Store(&n)
		}
		return zap.String("tap", n)
	}
	return log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core { return namedCore{c, field} }))
}

type namedCore struct {
	zapcore.Core
	field func() zapcore.Field
}

func (c namedCore) With(fields []zapcore.Field) zapcore.Core {
	return namedCore{c.Core.With(fields), c.field}
}

func (c namedCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return ce
	}
	return c.Core.With([]zapcore.Field{c.field()}).Check(e, ce)
}
