package main

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/test/docs"
)

// shellWords ends a command line of this program. The rest is for the shell.
var shellWords = regexp.MustCompile(` *(\||&|;|>|2>|<).*`)

// onlyNamed is the error of a command without its arguments.
var onlyNamed = regexp.MustCompile(`^(missing flags|expected "?<|expected one of)`)

func TestDocumentationShowsCommandsThatExist(t *testing.T) {
	pages, err := docs.Pages("../..")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, page := range pages {
		shown, err := docs.Commands("../..", page)
		if err != nil {
			t.Fatal(err)
		}
		spans, err := docs.Spans("../..", page, "xnetfrontd")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range append(shown, spans...) {
			line, ok := strings.CutPrefix(shellWords.ReplaceAllString(c.Text, ""), "xnetfrontd ")
			if !ok || strings.Contains(line, "--help") { // which would end the process
				continue
			}
			seen++
			parser, err := newParser(streams{io.Discard, io.Discard})
			if err != nil {
				t.Fatal(err)
			}
			// A command that is only named has no arguments.
			if _, err := parser.Parse(strings.Fields(line)); err != nil && !onlyNamed.MatchString(err.Error()) {
				t.Errorf("%s: %v", c, err)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands are shown", seen)
	}
}
