// Package logging makes the log of a command: lines for people, JSON, or entries of the
// journal.
package logging

import (
	"fmt"
	"io"
	"os"
	"slices"

	systemd "github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/journal"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/repeats"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
)

// New logs to stderr, as readable lines or as JSON objects, or to the journal's own socket,
// with fields that can be searched for. It leaves repeats out and counts them.
func New(c config.Log) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(c.Level)
	if err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	format := c.Format
	if format == "auto" {
		format = suitable(os.Stderr)
	}
	if format != "journal" {
		return zap.New(repeats.NewCore(streamCore(format, level))), nil
	}
	socket, err := journal.Dial(journal.DefaultSocket)
	if err != nil {
		log := zap.New(repeats.NewCore(streamCore("json", level)))
		log.Warn("the journal cannot be written to: its lines go to standard error", Problem(err), Event(EventNoJournal))
		return log, nil
	}
	return zap.New(repeats.NewCore(journal.NewCore(socket, level))), nil
}

// suitable is the format that suits a log to f.
func suitable(f *os.File) string {
	switch {
	case IsTerminal(f):
		return "console"
	case isJournal(f):
		return "journal"
	}
	return "json"
}

// streamCore logs to stderr.
func streamCore(format string, level zapcore.Level) zapcore.Core {
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey = "time"
	if format == "console" {
		enc.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		return zapcore.NewCore(consoleEncoder{zapcore.NewConsoleEncoder(enc)}, zapcore.Lock(os.Stderr), level)
	}
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	return zapcore.NewCore(jsonEncoder{zapcore.NewJSONEncoder(enc)}, zapcore.Lock(os.Stderr), level)
}

// consoleEncoder leaves out what is for programs. It escapes what a terminal acts on.
type consoleEncoder struct{ zapcore.Encoder }

func (e consoleEncoder) Clone() zapcore.Encoder { return consoleEncoder{e.Encoder.Clone()} }

func (e consoleEncoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	isID := func(f zapcore.Field) bool { return f.Key == "message_id" }
	entry.Message = printable.Line(entry.Message)
	return escaped(e.Encoder.EncodeEntry(entry, slices.DeleteFunc(slices.Clone(fields), isID)))
}

// jsonEncoder escapes what a terminal acts on.
type jsonEncoder struct{ zapcore.Encoder }

func (e jsonEncoder) Clone() zapcore.Encoder { return jsonEncoder{e.Encoder.Clone()} }

func (e jsonEncoder) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	return escaped(e.Encoder.EncodeEntry(entry, fields))
}

// escaped escapes in a line, whose fields are JSON, what zap does not.
func escaped(line *buffer.Buffer, err error) (*buffer.Buffer, error) {
	if err != nil {
		return nil, err
	}
	text := printable.JSON(line.Bytes())
	if len(text) != line.Len() {
		text = append([]byte(nil), text...)
		line.Reset()
		_, _ = line.Write(text) // which cannot fail
	}
	return line, nil
}

// NoteFailure notes in the journal why the program ends with this exit code, if w is the
// journal's stream. A plain line would have neither a priority nor a message id there.
func NoteFailure(w io.Writer, failure error, code int) bool {
	if f, ok := w.(*os.File); !ok || !isJournal(f) {
		return false
	}
	socket, err := journal.Dial(journal.DefaultSocket)
	if err != nil {
		return false
	}
	defer func() { _ = socket.Close() }() // an error loses nothing that was sent
	log := zap.New(journal.NewCore(socket, zap.InfoLevel))
	log.Error(printable.Error(failure), zap.Int("exit_code", code), Event(EventFailed))
	return log.Sync() == nil
}

// isJournal tells whether f is standard error and goes to the journal. systemd tells that in
// JOURNAL_STREAM (systemd.exec(5)).
func isJournal(f *os.File) bool {
	ok, err := systemd.StderrIsJournalStream()
	return f == os.Stderr && ok && err == nil
}

// IsTerminal tells whether f is a terminal.
func IsTerminal(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	terminal := false
	err = raw.Control(func(fd uintptr) {
		terminal = term.IsTerminal(int(fd))
	})
	return err == nil && terminal
}

// Problem is an error as a field: one line.
func Problem(err error) zap.Field { return zap.String("error", printable.Error(err)) }
