// Package show writes what the daemon answers for people to read.
package show

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// Printable is s with everything replaced that is not to be seen but may do something to
// a terminal: some texts are a backend's.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// Age is how long ago since was, to a second.
func Age(since, now time.Time) time.Duration { return max(0, now.Sub(since)).Round(time.Second) }

// flush writes what was gathered.
func flush(w io.Writer, b *bytes.Buffer) error {
	_, err := io.WriteString(w, Printable(b.String()))
	return err
}

// line writes a line of a vif: a word that says what of, and the text.
func line(b *bytes.Buffer, name, format string, args ...any) {
	fmt.Fprintf(b, "  %-9s "+format+"\n", append([]any{name}, args...)...)
}
