package main

import (
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
)

// chart draws the ratios to veth.
func (r *result) chart() ([]byte, error) {
	m := r.Machine
	c := figures.Chart{
		Title:    "xnetfrontd compared with a veth pair",
		Subtitle: fmt.Sprintf("%s, revision %s, Linux %s, %d CPUs, %d pairs of %g s", r.When.Format("2006-01-02"), m.Revision, m.Kernel, m.CPUs, r.Pairs, r.Seconds),
		Base:     linkVeth,
		Series: []figures.Series{
			{Name: linkXnetfrontd, Colour: figures.ColourMeasured},
			{Name: "plain TAP forwarder", Colour: figures.ColourBeside},
		},
		Panels: []figures.Panel{
			{Title: "Throughput as a part of veth's: more is better"},
			{Title: "Time in multiples of veth's: less is better"},
		},
	}
	for _, m := range r.Metrics {
		p := &c.Panels[0]
		if m.Less {
			p = &c.Panels[1]
		}
		p.Groups = append(p.Groups, figures.Group{
			Title: m.Title, Floor: m.Floor, Goal: m.Goal,
			Bars: []figures.Spread{m.ratios(linkXnetfrontd, valueOf), m.ratios(linkForwarder, valueOf)},
		})
	}
	return c.SVG()
}
