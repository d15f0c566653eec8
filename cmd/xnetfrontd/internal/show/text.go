// Package show writes the daemon's answers as text for people.
package show

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/printable"
)

// Age is the time from since to now, to a second.
func Age(since, now time.Time) time.Duration { return max(0, now.Sub(since)).Round(time.Second) }

// flush writes the gathered text. Some of it comes from a backend, so it is made printable.
func flush(w io.Writer, b *bytes.Buffer) error {
	_, err := io.WriteString(w, printable.Text(b.String()))
	return err
}

// line writes a line of a vif: its subject in one word, and the text.
func line(b *bytes.Buffer, name, format string, args ...any) {
	fmt.Fprintf(b, "  %-9s "+format+"\n", append([]any{name}, args...)...)
}
