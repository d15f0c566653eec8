package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/scenario"
)

// Cells of a grid. What has not run has not passed.
const (
	cellPassed = "ok"
	cellFailed = "FAIL"
	cellNotRun = "not run"
)

// grid is how scenarios ended on grounds.
type grid struct {
	scenarios []string
	rows      []gridRow
}

type gridRow struct {
	ground lab.Ground
	stands string // with the versions; empty: it could not be had
	cells  []string
	why    []string // a line for each that did not pass
}

func newGrid(chosen []scenario.Scenario) *grid {
	g := &grid{}
	for _, s := range chosen {
		g.scenarios = append(g.scenarios, s.Name)
	}
	return g
}

// add adds a ground, with the outcomes there, and what ended the run before its time.
func (g *grid) add(ground lab.Ground, stands string, outcomes []scenario.Outcome, err error) {
	r := gridRow{ground: ground, stands: stands}
	ended := map[string]scenario.Outcome{}
	for _, o := range outcomes {
		ended[o.Scenario] = o
	}
	missing := false
	for _, name := range g.scenarios {
		o, ran := ended[name]
		switch {
		case !ran:
			r.cells = append(r.cells, cellNotRun)
			missing = true
		case o.Failure != "":
			r.cells = append(r.cells, cellFailed)
			r.why = append(r.why, name+": "+o.Failure)
		default:
			r.cells = append(r.cells, cellPassed)
		}
	}
	if missing {
		reason := "the run ended before"
		if err != nil && !errors.Is(err, errFailed) {
			reason, _, _ = strings.Cut(err.Error(), "\n")
		}
		r.why = append(r.why, cellNotRun+": "+reason)
	}
	g.rows = append(g.rows, r)
}

// passed tells whether everything has run and passed.
func (g *grid) passed() bool {
	for _, r := range g.rows {
		if len(r.why) > 0 {
			return false
		}
	}
	return len(g.rows) > 0
}

// text is the grid for a terminal.
func (g *grid) text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "ground\t%s\n", strings.Join(g.scenarios, "\t"))
	for _, r := range g.rows {
		fmt.Fprintf(w, "%s\t%s\n", r.ground.Name, strings.Join(r.cells, "\t"))
	}
	w.Flush() // to a strings.Builder, which does not fail
	for _, r := range g.rows {
		for _, why := range r.why {
			fmt.Fprintf(&b, "%s, %s\n", r.ground.Name, why)
		}
	}
	return b.String()
}

// page is the grid for a page of the docs: a table of it, and what each ground was.
func (g *grid) page(now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nRun on %s.\n\n", now.Format("2 January 2006"))
	fmt.Fprintf(&b, "| ground | `%s` |\n|---|%s\n", strings.Join(g.scenarios, "` | `"), strings.Repeat("---|", len(g.scenarios)))
	for _, r := range g.rows {
		fmt.Fprintf(&b, "| %s | %s |\n", r.ground.Name, strings.Join(r.cells, " | "))
	}
	b.WriteString("\n| ground | was | what did not pass |\n|---|---|---|\n")
	for _, r := range g.rows {
		stands := r.stands
		if stands == "" {
			stands = "could not be had"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.ground.Name, stands, strings.ReplaceAll(strings.Join(r.why, "; "), "|", "\\|"))
	}
	b.WriteString("\n")
	return b.String()
}
