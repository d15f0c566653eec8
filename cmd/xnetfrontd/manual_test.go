package main

import (
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// manualPage is the part of the manual page about commands and their flags.
type manualPage struct {
	text  map[string]string          // the text below each "### TITLE"
	flags map[string]map[string]bool // the flags that are described there
}

var (
	flagTerm  = regexp.MustCompile(`(?m)^\*\*-.*$`)
	flagName  = regexp.MustCompile(`\*\*(--?[a-zA-Z][a-z-]*)\*\*`)
	reference = regexp.MustCompile(`\*([A-Z][a-z ]+)\*`)
)

func readManual(t *testing.T) manualPage {
	t.Helper()
	b, err := os.ReadFile("../../docs/man/xnetfrontd.8.md")
	if err != nil {
		t.Fatal(err)
	}
	m := manualPage{map[string]string{}, map[string]map[string]bool{}}
	for part := range strings.SplitSeq(string(b), "\n### ") {
		title, text, _ := strings.Cut(part, "\n")
		text, _, _ = strings.Cut(text, "\n# ")
		m.text[title], m.flags[title] = text, map[string]bool{}
		for _, term := range flagTerm.FindAllString(text, -1) {
			for _, name := range flagName.FindAllStringSubmatch(term, -1) {
				m.flags[title][name[1]] = true
			}
		}
	}
	return m
}

// of returns the flags that the page describes for a command: in the section of the command,
// and in those that the section names in italics behind "The options are those under".
func (m manualPage) of(command string) map[string]bool {
	all := maps.Clone(m.flags[command])
	for sentence := range strings.SplitSeq(strings.ReplaceAll(m.text[command], "\n", " "), ". ") {
		if !strings.Contains(strings.ToLower(sentence), "options are those under") {
			continue
		}
		for _, title := range reference.FindAllStringSubmatch(sentence, -1) {
			maps.Copy(all, m.flags[title[1]])
		}
	}
	return all
}

// commands calls f for every command that a user can give, with its whole name.
func commands(n *kong.Node, name string, f func(name string, n *kong.Node)) {
	for _, child := range n.Children {
		if child.Hidden {
			continue
		}
		whole := strings.TrimSpace(name + " " + child.Name)
		if child.Leaf() {
			f(whole, child)
		}
		commands(child, whole, f)
	}
}

func TestManualDescribesEveryCommandAndFlagAndNoOther(t *testing.T) {
	parser, err := newParser(streams{out: io.Discard, err: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	manual := readManual(t)
	described := map[string]bool{} // sections that are a command's
	commands(parser.Model.Node, "", func(name string, n *kong.Node) {
		if manual.text[name] == "" {
			t.Errorf("xnetfrontd.8.md has no section ### %s", name)
			return
		}
		described[name] = true
		has := map[string]bool{}
		for _, flag := range slices.Concat(n.AllFlags(true)...) {
			has["--"+flag.Name] = true
			if flag.Short != 0 {
				has["-"+string(flag.Short)] = true
			}
		}
		delete(has, "--help")
		delete(has, "-h")
		want, got := slices.Sorted(maps.Keys(has)), slices.Sorted(maps.Keys(manual.of(name)))
		if !slices.Equal(got, want) {
			t.Errorf("### %s of xnetfrontd.8.md describes %q, the program has %q", name, got, want)
		}
		for _, arg := range n.Positional {
			if want := "*" + strings.ToUpper(arg.Name) + "*"; !strings.Contains(manual.text[name], want) {
				t.Errorf("### %s of xnetfrontd.8.md does not name the argument %s", name, want)
			}
		}
	})
	for title := range manual.text {
		if title == strings.ToLower(title) && !strings.HasPrefix(title, "%") && !described[title] {
			t.Errorf("xnetfrontd.8.md has a section for %q, which is no command", title)
		}
	}
}
