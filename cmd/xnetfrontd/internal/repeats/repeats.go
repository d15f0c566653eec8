// Package repeats keeps a log from being flooded. A backend that comes and goes, or that
// breaks the protocol again and again, can make the daemon log without an end.
//
// Lines are of one kind if they have the same event (message_id, or the text where there is
// none), vif, queue and cause. The first [Burst] lines of a kind in an [Interval] are written.
// If more come, the last of them is written at the end of the Interval, with the field
// left_out, the number of lines that were not written, and the field age, the time since then.
// So the log is never later than an Interval, and its last line of a kind is the last that
// came. While lines go on to come, each further Interval has one line at once and one such
// count. After an Interval in which nothing was left out, Burst lines are written again.
//
// Debug lines are all written: their reader wants to see everything.
package repeats

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// The limits for the lines of a kind.
const (
	Burst    = 10 // lines
	Interval = time.Minute
)

// Core is a [zapcore.Core] that writes to another one, less often.
type Core struct {
	zapcore.Core
	of    kind // as far as the fields of With tell it
	kinds *kinds
}

// NewCore makes a Core that writes to inner.
func NewCore(inner zapcore.Core) *Core {
	return &Core{Core: inner, kinds: &kinds{open: make(map[kind]*window)}}
}

// With is part of [zapcore.Core].
func (c *Core) With(fields []zapcore.Field) zapcore.Core {
	return &Core{c.Core.With(fields), c.of.with(fields), c.kinds}
}

// Check is part of [zapcore.Core].
func (c *Core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write writes the line, or keeps it until its Interval is over. It always writes a line that
// ends the process.
func (c *Core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Level >= zapcore.InfoLevel && e.Level <= zapcore.ErrorLevel {
		of := c.of.with(fields)
		if of.event == "" {
			of.event = e.Message
		}
		if !c.kinds.admit(of, line{c.Core, e, slices.Clone(fields)}) {
			return nil
		}
	}
	return c.Core.Write(e, fields)
}

// Sync writes the lines that are kept, since the process may end now.
func (c *Core) Sync() error { return errors.Join(c.kinds.flush(), c.Core.Sync()) }

// kind is what the lines of a kind have in common.
type kind struct{ event, vif, queue, cause string }

func (k kind) with(fields []zapcore.Field) kind {
	for _, f := range fields {
		switch f.Key {
		case "message_id":
			k.event = value(f)
		case "vif":
			k.vif = value(f)
		case "queue":
			k.queue = value(f)
		case "cause":
			k.cause = value(f)
		}
	}
	return k
}

// value is the value of a field that is a text or a number.
func value(f zapcore.Field) string {
	switch f.Type {
	case zapcore.StringType:
		return f.String
	case zapcore.StringerType:
		return fmt.Sprint(f.Interface)
	}
	return strconv.FormatInt(f.Integer, 10)
}

// line is a line that was left out.
type line struct {
	core   zapcore.Core
	entry  zapcore.Entry
	fields []zapcore.Field
}

// kinds counts the lines of each kind.
type kinds struct {
	mu   sync.Mutex
	open map[kind]*window
}

// window is an Interval in which lines of a kind came.
type window struct {
	room int // lines that may still be written
	left int // lines that were left out
	last line
}

// admit tells whether to write a line.
func (k *kinds) admit(of kind, l line) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.open[of]
	if w == nil {
		w = &window{room: Burst}
		k.open[of] = w
		k.watch(of)
	}
	if w.room > 0 {
		w.room--
		return true
	}
	w.left++
	w.last = l
	return false
}

// watch ends the window of a kind in its time. The inner Core reports its own errors.
func (k *kinds) watch(of kind) {
	time.AfterFunc(Interval, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		w := k.open[of]
		if w.left == 0 {
			delete(k.open, of)
			return
		}
		_ = w.write() // with the lock, so that the next line of the kind comes after it
		w.room = 1
		k.watch(of)
	})
}

// flush writes the kept lines of all kinds.
func (k *kinds) flush() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	for _, w := range k.open {
		if w.left > 0 {
			err = errors.Join(err, w.write())
		}
	}
	return err
}

// write writes the last line that was left out, with the number of such lines.
func (w *window) write() error {
	l := w.last
	fields := append(l.fields, zap.Int("left_out", w.left), zap.Duration("age", time.Since(l.entry.Time).Round(time.Second)))
	w.left, w.last = 0, line{}
	return l.core.Write(l.entry, fields)
}
