package main

import (
	"bytes"
	"fmt"
	"math"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
)

// loaded is a load with all its samples.
type loaded struct {
	loadCase
	Pairs []loadPair `json:"pairs"`
}

// loadPair are the figures of both links, taken one after the other, by name. One that
// could not be measured, since everything was lost, is not there.
type loadPair struct {
	Veth       map[string]float64 `json:"veth"`
	Xnetfrontd map[string]float64 `json:"xnetfrontd"`
}

// spreads are a figure's on both links, and its ratio pair by pair.
func (l *loaded) spreads(figure string) (veth, xnetfrontd, ratio figures.Spread) {
	var v, x, r []float64
	for _, p := range l.Pairs {
		a, hasA := p.Veth[figure]
		b, hasB := p.Xnetfrontd[figure]
		if hasA {
			v = append(v, a)
		}
		if hasB {
			x = append(x, b)
		}
		if hasA && hasB && a != 0 {
			r = append(r, b/a)
		}
	}
	return figures.SpreadOf(v), figures.SpreadOf(x), figures.SpreadOf(r)
}

func (r *result) reportLoads(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nLatency under load: %d pairs of samples of %g s, medians (least to most), ratios pair by pair\n", r.LoadPairs, r.LoadSeconds)
	for _, l := range r.Loads {
		rows := [][]string{{l.title(), linkVeth, linkXnetfrontd, "", "ratio", "goal"}}
		for _, f := range l.figures() {
			veth, x, ratio := l.spreads(f.ID)
			shown, judged := spreadOrDash(ratio), ratio.Median
			if f.Plain {
				shown, judged = "", x.Median
			}
			rows = append(rows, []string{"  " + f.Title, spreadOrDash(veth), spreadOrDash(x), f.Unit, shown, figures.Verdict(judged, f.Goal, f.Less)})
		}
		fmt.Fprintln(b)
		figures.Table(b, rows)
	}
}

func spreadOrDash(s figures.Spread) string {
	if math.IsNaN(s.Median) {
		return "-"
	}
	return s.String()
}
