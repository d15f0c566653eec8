package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/completion"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// completionTimeout is how long a shell's user waits for the names of vifs.
const completionTimeout = time.Second

// askedToComplete tells whether a shell asks what can come next on a command line, as the
// files in deploy/completion do.
func askedToComplete() bool { return os.Getenv("COMP_LINE") != "" }

// completions writes what can come next, a line each. Fields of commands with the tag
// complete:"vif" are completed to the vifs that the daemon serves.
func completions(parser *kong.Kong, out io.Writer) error {
	line := completion.Parse(os.Getenv("COMP_LINE"), os.Getenv("COMP_POINT"))
	for _, word := range completion.Candidates(parser.Model.Node, line, map[string]completion.Source{"vif": servedVifs}) {
		if _, err := fmt.Fprintln(out, word); err != nil {
			return err
		}
	}
	return nil
}

// servedVifs are the vifs of the daemon that the command line names: the names of their
// TAPs, and also their numbers once something has been typed. There are none if no daemon
// answers, or not to this user. Names that a shell would not show as they are are left out.
func servedVifs(l completion.Line) []string {
	client := control.Client{Path: controlOf(l.Words), Timeout: completionTimeout}
	status, err := client.Status(context.Background())
	if err != nil {
		return nil
	}
	var names []string
	for _, vif := range status.Vifs {
		if vif.TAP != "" {
			names = append(names, vif.TAP)
		}
		if l.Last != "" {
			names = append(names, vif.Name())
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { return name != printable.Line(name) })
}

// controlOf is the path that a command line gives with --control, or the default.
func controlOf(words []string) string {
	for i, word := range words {
		if path, ok := strings.CutPrefix(word, "--control="); ok {
			return path
		}
		if word == "--control" && i+1 < len(words) {
			return words[i+1]
		}
	}
	return config.DefaultControl
}
