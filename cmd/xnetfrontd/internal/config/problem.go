package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Origin is where a value comes from: a line of a file, or the command line. The zero Origin
// is that of a default.
type Origin struct {
	Path string
	Line int // counted from 1; 0: Path is no file with lines
}

// commandLine is the origin of the values of flags.
func commandLine() Origin { return Origin{Path: "command line"} }

func (o Origin) String() string {
	switch {
	case o == Origin{}:
		return "default"
	case o.Line == 0:
		return plain(o.Path)
	}
	return plain(o.Path) + ":" + strconv.Itoa(o.Line)
}

// Problem is a value that cannot be used.
type Problem struct {
	Where Origin
	Key   string // as the file spells it, vif.mtu
	Value string // as it was given; "": it was not given
	Want  string // what is expected instead
}

func (p *Problem) Error() string {
	where := ""
	if p.Where != (Origin{}) {
		where = p.Where.String() + ": "
	}
	if p.Value == "" {
		return fmt.Sprintf("%s%s is missing: expected %s", where, p.Key, p.Want)
	}
	return fmt.Sprintf("%s%s = %s: expected %s", where, p.Key, p.Value, p.Want)
}

// complaint is a problem at a place of a file that is not about the value of a key.
type complaint struct {
	where Origin
	text  string
}

func (c *complaint) Error() string { return c.where.String() + ": " + c.text }

// lineOf is the line of an error in its file; 0: none.
func lineOf(err error) int {
	var p *Problem
	var c *complaint
	switch {
	case errors.As(err, &p):
		return p.Where.Line
	case errors.As(err, &c):
		return c.where.Line
	}
	return 0
}

// Problems are all problems of a configuration: at least one error, each of one line.
type Problems []error

// Error is the first problem, and the number of the others.
func (p Problems) Error() string {
	first := p[0].Error()
	if more := len(p) - 1; more > 0 {
		return fmt.Sprintf("%s (and %s: see xnetfrontd config check)", first, count(more, "more problem"))
	}
	return first
}

// Unwrap is for errors.As.
func (p Problems) Unwrap() []error { return p }

// orNil is p as an error.
func (p Problems) orNil() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// maxShown is how much of a user's text is repeated in an error.
const maxShown = 120

// printable is text in quotes and on one line.
func printable(text string) string {
	if len(text) > maxShown {
		return strconv.Quote(strings.ToValidUTF8(text[:maxShown], "")) + "..."
	}
	return strconv.Quote(text)
}

// plain is text without quotes, made fit for one line.
func plain(text string) string {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return printable(text)
	}
	return text
}

// quote is text as a TOML string, which is the same in JSON.
func quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04X", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func quoteList(texts []string) string {
	quoted := make([]string, len(texts))
	for i, t := range texts {
		quoted[i] = quote(t)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
