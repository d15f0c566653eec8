package logging

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
)

// hostile is text that does something to a terminal.
const hostile = "\x1b]0;title\x07\u009b2J\u202e\x7f"

func TestLogLinesDoNothingToATerminal(t *testing.T) {
	for _, format := range []string{"console", "json"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr := os.Stderr
		os.Stderr = w
		log := zap.New(streamCore(format, zapcore.InfoLevel))
		os.Stderr = stderr
		log.Info("line"+hostile, zap.String("cause", hostile), Event(EventFailed))
		w.Close()
		line, err := bufio.NewReader(r).ReadString('\n')
		if err != nil || !strings.Contains(line, "title") || !cmdtest.Printable(strings.ReplaceAll(line, "\t", " ")) {
			t.Errorf("%s: %q, %v", format, line, err)
		}
		r.Close()
	}
}
