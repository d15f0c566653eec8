// Package printable keeps text of others from doing anything to a terminal but being
// shown. Such text is what a backend wrote to xenstore, what another process left in a
// file, what answers on a socket: root looks at it, and whoever wrote it need not be root.
package printable

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Text is s with a question mark for everything that is not to be seen: control
// characters, those of the upper half too (U+009B begins a sequence as ESC [ does), what
// turns the direction of writing, bytes that are no UTF-8. Lines stay lines.
func Text(s string) string { return text(s, '\n') }

// Line is s as one line: the lines of joined errors stand behind each other.
func Line(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	return text(strings.Join(lines, "; "), -1)
}

func text(s string, keep rune) string {
	return strings.Map(func(r rune) rune {
		if r == keep || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// JSON is valid JSON with the same value as doc, in which all that Text would replace is
// escaped. Encoders escape little more than the first 32 characters.
func JSON(doc []byte) []byte {
	if utf8.Valid(doc) && bytes.IndexFunc(doc, hidden) < 0 {
		return doc
	}
	var b bytes.Buffer
	for len(doc) > 0 {
		r, n := utf8.DecodeRune(doc)
		if hidden(r) || r == utf8.RuneError && n == 1 {
			// Such a character is in a string, or the document is no JSON.
			for _, unit := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(&b, `\u%04x`, unit)
			}
		} else {
			b.Write(doc[:n])
		}
		doc = doc[n:]
	}
	return b.Bytes()
}

func hidden(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }
