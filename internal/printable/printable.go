// Package printable makes text of others safe for a terminal. Such text comes from a backend
// in xenstore, from a file of another process, or from a peer on a socket. Root looks at it,
// and its writer need not be root.
package printable

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Text is s with a question mark for everything that a terminal does not show as a
// character: control characters, with those of the upper half (U+009B begins a sequence as
// ESC [ does), marks that turn the direction of writing, bytes that are no UTF-8. Lines
// stay lines.
func Text(s string) string { return text(s, '\n') }

// Line is s as one line: the lines of joined errors stand behind each other, with
// semicolons between them.
func Line(s string) string {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' })
	return text(strings.Join(lines, "; "), -1)
}

// Error is err's text as one line, as [Line] makes it.
func Error(err error) string { return Line(err.Error()) }

func text(s string, keep rune) string {
	return strings.Map(func(r rune) rune {
		if r == keep || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// JSON returns JSON with the same value as doc. It escapes every character that [Text]
// would replace; encoders escape little more than the first 32 characters.
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
