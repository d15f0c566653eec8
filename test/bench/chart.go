package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"math"
	"text/template"
)

//go:embed chart.svg.tmpl
var chartTemplate string

// Measures of the chart, in pixels.
const (
	chartWidth  = 900
	chartMargin = 20
	plotLeft    = 200
	plotRight   = 730
	panelTop    = 96
	panelHead   = 34 // from a panel's top to its first group
	panelFoot   = 44 // from its last group to the next panel
	barHeight   = 16
	groupHeight = 2*barHeight + 22
)

// Colours of the chart.
const (
	forwarderColour  = "#b8bec6"
	xnetfrontdColour = "#2f6db5"
	floorColour      = "#c0392b"
	goalColour       = "#2e8b57"
	floorDash        = "4 3"
)

type chartData struct {
	Width, Height, Margin, Left, Right int
	Subtitle                           string
	Legend                             []legendEntry
	Panels                             []panel
}

type legendEntry struct {
	X                        int
	Text, Fill, Stroke, Dash string
	Whisker                  bool
}

// panel is metrics that share an axis.
type panel struct {
	Title       string
	Top, Bottom int
	Veth        float64
	Ticks       []tick
	Groups      []group
}

type tick struct {
	X             float64
	Bottom, TextY int
	Text          string
}

// group is one metric.
type group struct {
	Title string
	TextY int
	Bars  []bar
	Marks []mark
}

type bar struct {
	Y, Height, Middle, Lo, Hi, TextY int
	Width, Min, Max                  float64
	Fill, Text                       string
}

type mark struct {
	X            float64
	Top, Bottom  int
	Stroke, Dash string
}

// chart draws the ratios as an SVG: a bar for each link, from nothing to the median,
// with a whisker from the least to the most.
func (r *result) chart() ([]byte, error) {
	c := chartData{Width: chartWidth, Margin: chartMargin, Left: plotLeft, Right: plotRight + 16}
	m := r.Machine
	c.Subtitle = fmt.Sprintf("%s, revision %s, Linux %s, %d CPUs, %d pairs of %g s", r.When.Format("2006-01-02"), m.Revision, m.Kernel, m.CPUs, r.Pairs, r.Seconds)
	c.Legend = []legendEntry{
		{X: 0, Fill: xnetfrontdColour, Text: "xnetfrontd, median"},
		{X: 165, Fill: forwarderColour, Text: "plain TAP forwarder, median"},
		{X: 380, Whisker: true, Text: "least to most"},
		{X: 500, Stroke: "#222", Text: "veth"},
		{X: 570, Stroke: floorColour, Dash: floorDash, Text: "floor"},
		{X: 640, Stroke: goalColour, Text: "goal"},
	}
	top := panelTop
	for _, less := range []bool{false, true} {
		var of []*measured
		for i := range r.Metrics {
			if r.Metrics[i].Less == less {
				of = append(of, &r.Metrics[i])
			}
		}
		if len(of) == 0 {
			continue
		}
		p := newPanel(of, less, top)
		c.Panels = append(c.Panels, p)
		top += p.Bottom + panelFoot
	}
	c.Height = top
	t, err := template.New("chart").Parse(chartTemplate)
	if err != nil {
		return nil, fmt.Errorf("draw chart: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, c); err != nil {
		return nil, fmt.Errorf("draw chart: %w", err)
	}
	return b.Bytes(), nil
}

// newPanel lays out metrics below top. Other coordinates count from there.
func newPanel(of []*measured, less bool, top int) panel {
	p := panel{Title: "Throughput as a part of veth's: more is better", Top: top}
	if less {
		p.Title = "Time in multiples of veth's: less is better"
	}
	most := 1.0
	for _, m := range of {
		most = max(most, m.Floor, m.Goal, m.ratios(linkForwarder, valueOf).Max, m.ratios(linkXnetfrontd, valueOf).Max)
	}
	step := tickStep(most)
	end := step * math.Ceil(most/step)
	x := func(ratio float64) float64 {
		return math.Round(10*(plotLeft+(plotRight-plotLeft)*ratio/end)) / 10
	}
	p.Bottom = panelHead + len(of)*groupHeight - 6
	p.Veth = x(1)
	for i := 0; float64(i)*step <= end*1.001; i++ {
		v := float64(i) * step
		p.Ticks = append(p.Ticks, tick{X: x(v), Bottom: p.Bottom, TextY: p.Bottom + 14, Text: fmt.Sprintf("%.3g", v)})
	}
	for i, m := range of {
		p.Groups = append(p.Groups, newGroup(m, panelHead+i*groupHeight, x))
	}
	return p
}

func newGroup(m *measured, y int, x func(float64) float64) group {
	g := group{Title: m.Title, TextY: y + barHeight + 6}
	for i, l := range []struct{ link, colour string }{{linkXnetfrontd, xnetfrontdColour}, {linkForwarder, forwarderColour}} {
		s := m.ratios(l.link, valueOf)
		at := y + i*(barHeight+3)
		g.Bars = append(g.Bars, bar{
			Y: at, Height: barHeight, Middle: at + barHeight/2, Lo: at + 4, Hi: at + barHeight - 4, TextY: at + barHeight - 3,
			Width: math.Round(10*(x(s.Median)-plotLeft)) / 10, Min: x(s.Min), Max: x(s.Max),
			Fill: l.colour, Text: fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Min, s.Max),
		})
	}
	for _, b := range []struct {
		at           float64
		colour, dash string
	}{{m.Floor, floorColour, floorDash}, {m.Goal, goalColour, ""}} {
		if b.at != 0 {
			g.Marks = append(g.Marks, mark{X: x(b.at), Top: y - 4, Bottom: y + 2*barHeight + 7, Stroke: b.colour, Dash: b.dash})
		}
	}
	return g
}

// tickStep is the distance of the axis' marks: 1, 2 or 5 of a power of ten, so that
// there are about six.
func tickStep(most float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(most/6)))
	for _, n := range []float64{1, 2, 5} {
		if most/(n*power) <= 8 {
			return n * power
		}
	}
	return 10 * power
}
