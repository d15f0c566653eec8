package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/scenario"
)

// matrixCmd runs scenarios on each ground, one ground after the other.
type matrixCmd struct {
	Ground   []string `placeholder:"NAME,..." help:"Only these: names in test/xenlab/grounds."`
	Scenario []string `default:"connect,bulk,attach,late,takeover,handover,driverdomain,restore" placeholder:"NAME,..." help:"These scenarios, or all."`
	Boots    int      `default:"2" placeholder:"N" help:"So many Xens at a time, if there are CPUs and memory for them (default: 2)."`
	Page     string   `placeholder:"FILE" type:"existingfile" help:"Write the grid into this page, between its marks <!-- grid --> and <!-- /grid -->."`
	Daemon   string   `placeholder:"FILE" type:"existingfile" help:"Static binary of the daemon (default: bin/xnetfrontd)."`
	Logs     string   `placeholder:"DIR" type:"path" help:"Folder for the logs, one below it for each ground (default: new ones in the cache)."`
}

func (c *matrixCmd) Run(e *env) error {
	grounds, err := chooseGrounds(filepath.Join(e.source, "test", "xenlab", "grounds"), c.Ground)
	if err != nil {
		return err
	}
	wanted := c.Scenario
	if slices.Equal(wanted, []string{"all"}) {
		wanted = nil
	}
	chosen, err := scenario.Choose(scenario.All(), wanted)
	if err != nil {
		return usageError{err}
	}
	if c.Boots < 1 {
		return usageError{fmt.Errorf("--boots %d: want at least 1", c.Boots)}
	}
	g := newGrid(chosen)
	for _, ground := range grounds {
		fmt.Fprintf(e.out, "\n== %s\n", ground.Name)
		r := &scenario.Runner{Out: e.out, Source: e.source, Boots: c.Boots}
		b := buildFlags{
			partFlags: partFlags{GuestKernel: ground.Guests, Dom0Kernel: ground.Dom0, Xen: ground.Xen},
			Store:     ground.Store, Guest: ground.Type, Daemon: c.Daemon,
		}
		if c.Logs != "" {
			b.Logs = filepath.Join(c.Logs, ground.Name)
		}
		err := b.run(e, r, chosen)
		if e.ctx.Err() != nil {
			return err
		}
		if err != nil && !errors.Is(err, errFailed) {
			fmt.Fprintln(e.out, err)
		}
		g.add(ground, r.Stands, r.Outcomes, err)
	}
	fmt.Fprintf(e.out, "\n%s", g.text())
	if c.Page != "" {
		if err := writeGrid(c.Page, g.page(time.Now())); err != nil {
			return err
		}
	}
	if !g.passed() {
		return errFailed
	}
	return nil
}

// chooseGrounds returns those of a table that are asked for, in its order, or all. A name
// that it does not have is a usageError with those that it has.
func chooseGrounds(table string, asked []string) ([]lab.Ground, error) {
	all, err := lab.ReadGrounds(table)
	if err != nil {
		return nil, err
	}
	var known []string
	for _, g := range all {
		known = append(known, g.Name)
	}
	for _, name := range asked {
		if !slices.Contains(known, name) {
			return nil, usageError{fmt.Errorf("--ground %s: there is no such ground in the lab; known are %s", name, strings.Join(known, ", "))}
		}
	}
	if len(asked) == 0 {
		return all, nil
	}
	return slices.DeleteFunc(all, func(g lab.Ground) bool { return !slices.Contains(asked, g.Name) }), nil
}

// Marks between which a page has its grid.
const (
	gridBegins = "<!-- grid -->\n"
	gridEnds   = "<!-- /grid -->\n"
)

// writeGrid puts a grid into a page, in the place of the one that is there.
func writeGrid(path, grid string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(old), gridBegins)
	_, after, ends := strings.Cut(rest, gridEnds)
	if !found || !ends {
		return fmt.Errorf("%s has no marks %s and %s to write the grid between", path, strings.TrimSpace(gridBegins), strings.TrimSpace(gridEnds))
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(before+gridBegins+grid+gridEnds+after), info.Mode().Perm())
}
