package journal

import (
	"slices"

	"go.uber.org/zap/zapcore"
)

// Core is a [zapcore.Core] that writes to a [Socket].
//
// The fields vif, queue, backend, cause, tap and message_id become VIF, QUEUE, BACKEND,
// CAUSE, TAP and MESSAGE_ID, any other becomes XNF_ and its name in capitals.
type Core struct {
	zapcore.LevelEnabler
	out    *Socket
	fields []zapcore.Field
}

// NewCore makes a Core for entries of these levels. The Socket stays the caller's.
func NewCore(out *Socket, level zapcore.LevelEnabler) *Core {
	return &Core{LevelEnabler: level, out: out}
}

// With is part of [zapcore.Core].
func (c *Core) With(fields []zapcore.Field) zapcore.Core {
	return &Core{c.LevelEnabler, c.out, slices.Concat(c.fields, fields)}
}

// Check is part of [zapcore.Core].
func (c *Core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write sends the entry. It never fails: zap would write the error to standard error, which
// goes to journald, too, and may block.
func (c *Core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	list := values(slices.Concat(c.fields, fields))
	b := newEntry(priority(e.Level), message(e.Message, list))
	for _, f := range list {
		b = appendField(b, fieldName(f.key), f.value)
	}
	if e.Stack != "" {
		b = appendField(b, fieldName("stack"), e.Stack)
	}
	c.out.write(b)
	return nil
}

// Sync is part of [zapcore.Core]. There is nothing to wait for. It fails if entries are lost
// and journald does not take the entry that says so.
func (c *Core) Sync() error { return c.out.flush() }
