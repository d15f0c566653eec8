package main

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	"github.com/posener/complete"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// completionTimeout is how long a shell's user waits for the names of vifs.
const completionTimeout = time.Second

// askedToComplete tells whether a shell asks what could come next: it has what was typed
// in COMP_LINE (bash(1), "Programmable Completion"; deploy/completion).
func askedToComplete() bool { return os.Getenv("COMP_LINE") != "" }

// completions writes what could come next, a line each. A field of a command that has
// the tag predictor:"vif" is completed to the vifs that the daemon serves.
func completions(parser *kong.Kong, out io.Writer) error {
	command, err := kongcompletion.Command(parser, kongcompletion.WithPredictor("vif", complete.PredictFunc(servedVifs)))
	if err != nil {
		return err
	}
	c := complete.New(parser.Model.Name, command)
	c.Out = out
	c.Complete()
	return nil
}

// servedVifs are the vifs of the daemon that the command line means: the names of their
// TAPs, and their numbers once something has been typed. There are none where no daemon
// answers, or not to this user, and none that a shell would not show as it is.
func servedVifs(a complete.Args) []string {
	client := control.Client{Path: controlOf(a.All), Timeout: completionTimeout}
	status, err := client.Status(context.Background())
	if err != nil {
		return nil
	}
	var names []string
	for _, vif := range status.Vifs {
		if vif.TAP != "" {
			names = append(names, vif.TAP)
		}
		if a.Last != "" {
			names = append(names, vif.Name())
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { return name != printable.Line(name) })
}

// controlOf is the path that a command line gives with --control, or the default.
func controlOf(args []string) string {
	for i, arg := range args {
		if path, ok := strings.CutPrefix(arg, "--control="); ok {
			return path
		}
		if arg == "--control" && i+1 < len(args) {
			return args[i+1]
		}
	}
	return config.DefaultControl
}
