// Package completion tells a shell what can come next on a command line, by kong's model of
// the command line. The shell passes the line in COMP_LINE and the place of the cursor in
// COMP_POINT (bash(1), "Programmable Completion").
//
// It is written by hand, since the library for kong stands on one that is not maintained any
// more, and brings a module that looks up the user's shell, which the shells' own completion
// files make needless.
package completion

import (
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/alecthomas/kong"
)

// Tag is the tag of a field of a command that names the Source of its values.
const Tag = "complete"

// Source returns what can stand for a value.
type Source func(Line) []string

// Line is a command line up to the cursor, without the program's name.
type Line struct {
	Words []string // that are complete; a flag can be one with its value, as in --flag=value
	Last  string   // that is being typed, without the flag of --flag=value; empty after a blank
	flag  string   // of --flag=value, if Last is such a value
}

// Parse takes a line apart. Point is the cursor's place in bytes; what is no number stands for
// the end of the line.
func Parse(line, point string) Line {
	if n, err := strconv.Atoi(point); err == nil && n >= 0 && n < len(line) {
		line = line[:n]
	}
	words := strings.Fields(line)
	if line == "" || unicode.IsSpace(rune(line[len(line)-1])) {
		words = append(words, "")
	}
	l := Line{Last: words[len(words)-1]}
	if len(words) > 1 {
		l.Words = words[1 : len(words)-1]
	} else {
		l.Last = "" // the program's name itself
	}
	if flag, value, ok := strings.Cut(l.Last, "="); ok && strings.HasPrefix(flag, "-") {
		l.flag, l.Last = flag, value
	}
	return l
}

// Candidates returns what the word that is being typed can be, sorted: commands, flags once
// a hyphen is typed, and values. Hidden commands and flags are not among them.
func Candidates(root *kong.Node, l Line, sources map[string]Source) []string {
	at := walk(root, l.Words)
	var found []string
	switch {
	case l.flag != "":
		if f := at.flag(l.flag); f != nil {
			found = values(f.Value, l, sources)
		}
	case at.value != nil:
		found = values(at.value, l, sources)
	default:
		found = at.words(l, sources)
	}
	found = slices.DeleteFunc(found, func(s string) bool { return !strings.HasPrefix(s, l.Last) })
	slices.Sort(found)
	return slices.Compact(found)
}

// position is where a line has come to in the model.
type position struct {
	node  *kong.Node
	args  int         // positional arguments of node that are complete
	value *kong.Value // of a flag, which must be the next word; nil: it need not
	plain bool        // after --, which ends the flags
}

// walk follows complete words.
func walk(root *kong.Node, words []string) position {
	at := position{node: root}
	for _, word := range words {
		child := slices.IndexFunc(at.node.Children, func(n *kong.Node) bool { return n.Name == word })
		switch {
		case at.value != nil:
			at.value = nil
		case word == "--" && !at.plain:
			at.plain = true
		case strings.HasPrefix(word, "-") && !at.plain:
			if f := at.flag(word); f != nil && !f.IsBool() {
				at.value = f.Value
			}
		case child >= 0:
			at.node, at.args = at.node.Children[child], 0
		default:
			at.args++
		}
	}
	return at
}

// flags are those that the position takes: a command's, and those of the commands above it.
func (p position) flags() (all []*kong.Flag) {
	for n := p.node; n != nil; n = n.Parent {
		all = append(all, n.Flags...)
	}
	return all
}

// flag finds a flag by how it is typed. There is none for --flag=value.
func (p position) flag(typed string) *kong.Flag {
	for _, f := range p.flags() {
		if slices.Contains(names(f), typed) {
			return f
		}
	}
	return nil
}

// names are the ways to type a flag.
func names(f *kong.Flag) []string {
	typed := []string{"--" + f.Name}
	if f.Short != 0 {
		typed = append(typed, "-"+string(f.Short))
	}
	return typed
}

// words are what can stand at the position, other than the value of a flag.
func (p position) words(l Line, sources map[string]Source) (found []string) {
	if strings.HasPrefix(l.Last, "-") && !p.plain {
		for _, f := range p.flags() {
			if !f.Hidden {
				found = append(found, names(f)...)
			}
		}
		return found
	}
	for _, child := range p.node.Children {
		if !child.Hidden {
			found = append(found, child.Name)
		}
	}
	if p.args < len(p.node.Positional) {
		found = append(found, values(p.node.Positional[p.args], l, sources)...)
	}
	return found
}

// values are what a value can be: those of an enumeration, or of a Source. For any other there
// are none, and a shell offers files.
func values(v *kong.Value, l Line, sources map[string]Source) (found []string) {
	if source := sources[v.Tag.Get(Tag)]; source != nil {
		return source(l)
	}
	if v.Enum == "" {
		return nil
	}
	for value := range v.EnumMap() {
		found = append(found, value)
	}
	return found
}
