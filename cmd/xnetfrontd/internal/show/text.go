// Package show writes what the daemon answers for people to read.
package show

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/printable"
)

// Age is how long ago since was, to a second.
func Age(since, now time.Time) time.Duration { return max(0, now.Sub(since)).Round(time.Second) }

// flush writes what was gathered: some of it is a backend's.
func flush(w io.Writer, b *bytes.Buffer) error {
	_, err := io.WriteString(w, printable.Text(b.String()))
	return err
}

// line writes a line of a vif: a word that says what of, and the text.
func line(b *bytes.Buffer, name, format string, args ...any) {
	fmt.Fprintf(b, "  %-9s "+format+"\n", append([]any{name}, args...)...)
}
