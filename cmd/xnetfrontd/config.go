package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
)

// configCmd are the commands about the configuration alone. They need no Xen and no daemon:
// they only read files.
type configCmd struct {
	Check configCheckCmd `cmd:"" help:"Tell everything that is wrong with the configuration, a line each."`
	Show  configShowCmd  `cmd:"" help:"Show the configuration as run would have it, and where each value comes from."`
}

type configCheckCmd struct {
	configFlags
}

func (c *configCheckCmd) Help() string {
	return `The exit code is 2 if anything is wrong. xnetfrontd check tells whether the guest has the
vifs, and whether they can be served.`
}

func (c *configCheckCmd) Run(s streams) error {
	l, err := c.loaded()
	if err != nil {
		return reportEach(s, err)
	}
	what := c.Config
	switch {
	case c.Vif != nil:
		what = "command line"
	case what == "":
		what = config.DefaultPath
	}
	tables := "1 vif table"
	if n := len(l.Vifs); n != 1 {
		tables = fmt.Sprintf("%d vif tables", n)
	}
	read := ""
	if len(l.Files) > 1 || len(l.Files) == 1 && l.Files[0] != what {
		read = "; read " + strings.Join(l.Files, ", ")
	}
	_, err = fmt.Fprintf(s.out, "%s: ok, %s%s\n", what, tables, read)
	return err
}

// reportEach writes every problem of a configuration as a line of its own.
func reportEach(s streams, err error) error {
	var problems config.Problems
	if !errors.As(err, &problems) {
		return err
	}
	for _, p := range problems {
		report(s.err, failure.Usage(p))
	}
	return failure.Reported(failure.ExitUsage)
}

type configShowCmd struct {
	configFlags
	JSON bool `name:"json" help:"As JSON: files, keys outside of the vif tables, and vif, a list of tables; each key has value and from."`
}

func (c *configShowCmd) Help() string {
	return `Behind each value is its origin: a file and line, the command line, or the default. The
output is a configuration file with every key.`
}

func (c *configShowCmd) Run(s streams) error {
	l, err := c.loaded()
	if err != nil {
		return reportEach(s, err)
	}
	if c.JSON {
		return l.WriteJSON(s.out)
	}
	return l.WriteTOML(s.out)
}
