package netfront

import (
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// withName is log with the field tap, which is the TAP's name at the time of each line: somebody
// may rename it. Of one that is gone it is the last name.
func withName(log *zap.Logger, name func() string) *zap.Logger {
	var last atomic.Pointer[string]
	field := func() zapcore.Field {
		n := name()
		if before := last.Load(); n == "" && before != nil {
			n = *before
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
