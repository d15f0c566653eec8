package figures

import (
	"bytes"
	_ "embed"
	"fmt"
	"math"
	"text/template"
	"unicode/utf8"
)

//go:embed chart.svg.tmpl
var chartTemplate string

// Chart is a drawing of ratios to a base: a bar for each series, from nothing to the
// median, with a whisker from the least to the most.
type Chart struct {
	Title, Subtitle string
	Base            string // what a ratio of 1 is
	Series          []Series
	Panels          []Panel
}

// Series is what has a bar in every group.
type Series struct{ Name, Colour string }

// Colours of series: that of what is measured, and that of what it is compared with.
const (
	ColourMeasured = "#2f6db5"
	ColourBeside   = "#b8bec6"
)

// Panel is groups that share an axis.
type Panel struct {
	Title  string
	Groups []Group
}

// Group is one metric: a spread for each series, and the bounds, 0 for none.
type Group struct {
	Title       string
	Bars        []Spread
	Floor, Goal float64
}

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
	barGap      = 3
	groupGap    = 19
)

const (
	floorColour = "#c0392b"
	goalColour  = "#2e8b57"
	floorDash   = "4 3"
)

// layout is what the template draws.
type layout struct {
	Width, Height, Margin, Left, Right int
	Title, Subtitle                    string
	Legend                             []legendEntry
	Panels                             []panelLayout
}

type legendEntry struct {
	X                        int
	Text, Fill, Stroke, Dash string
	Whisker                  bool
}

type panelLayout struct {
	Title       string
	Top, Bottom int
	One         float64 // where the base is
	Ticks       []tick
	Groups      []groupLayout
}

type tick struct {
	X             float64
	Bottom, TextY int
	Text          string
}

type groupLayout struct {
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

// SVG draws the chart. Panels without groups are left out.
func (c *Chart) SVG() ([]byte, error) {
	l := layout{Width: chartWidth, Margin: chartMargin, Left: plotLeft, Right: plotRight + 16, Title: c.Title, Subtitle: c.Subtitle, Legend: c.legend()}
	top := panelTop
	for i := range c.Panels {
		if len(c.Panels[i].Groups) == 0 {
			continue
		}
		p := c.panel(&c.Panels[i], top)
		l.Panels = append(l.Panels, p)
		top += p.Bottom + panelFoot
	}
	l.Height = top
	t, err := template.New("chart").Parse(chartTemplate)
	if err != nil {
		return nil, fmt.Errorf("draw chart: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, l); err != nil {
		return nil, fmt.Errorf("draw chart: %w", err)
	}
	return b.Bytes(), nil
}

// legend lists what there is to be explained.
func (c *Chart) legend() []legendEntry {
	var all []legendEntry
	for _, s := range c.Series {
		all = append(all, legendEntry{Fill: s.Colour, Text: s.Name + ", median"})
	}
	all = append(all, legendEntry{Whisker: true, Text: "least to most"}, legendEntry{Stroke: "#222", Text: c.Base})
	floor, goal := false, false
	for _, p := range c.Panels {
		for _, g := range p.Groups {
			floor, goal = floor || g.Floor != 0, goal || g.Goal != 0
		}
	}
	if floor {
		all = append(all, legendEntry{Stroke: floorColour, Dash: floorDash, Text: "floor"})
	}
	if goal {
		all = append(all, legendEntry{Stroke: goalColour, Text: "goal"})
	}
	x := 0
	for i := range all {
		all[i].X = x
		x += 46 + 13*utf8.RuneCountInString(all[i].Text)/2 // a symbol, and half the font's size for a character
	}
	return all
}

// panel lays out a panel below top. Other coordinates count from there.
func (c *Chart) panel(p *Panel, top int) panelLayout {
	most := 1.0
	for _, g := range p.Groups {
		most = max(most, g.Floor, g.Goal)
		for _, s := range g.Bars {
			most = max(most, s.Max)
		}
	}
	step := tickStep(most)
	end := step * math.Ceil(most/step)
	x := func(ratio float64) float64 {
		return math.Round(10*(plotLeft+(plotRight-plotLeft)*ratio/end)) / 10
	}
	groupHeight := len(c.Series)*(barHeight+barGap) - barGap + groupGap
	l := panelLayout{Title: p.Title, Top: top, Bottom: panelHead + len(p.Groups)*groupHeight - 6, One: x(1)}
	for i := 0; float64(i)*step <= end*1.001; i++ {
		v := float64(i) * step
		l.Ticks = append(l.Ticks, tick{X: x(v), Bottom: l.Bottom, TextY: l.Bottom + 14, Text: fmt.Sprintf("%.3g", v)})
	}
	for i := range p.Groups {
		l.Groups = append(l.Groups, c.group(&p.Groups[i], panelHead+i*groupHeight, x))
	}
	return l
}

func (c *Chart) group(g *Group, y int, x func(float64) float64) groupLayout {
	bottom := y + len(c.Series)*(barHeight+barGap) - barGap
	l := groupLayout{Title: g.Title, TextY: (y+bottom)/2 + 5}
	for i, s := range g.Bars {
		at := y + i*(barHeight+barGap)
		l.Bars = append(l.Bars, bar{
			Y: at, Height: barHeight, Middle: at + barHeight/2, Lo: at + 4, Hi: at + barHeight - 4, TextY: at + barHeight - 3,
			Width: math.Round(10*(x(s.Median)-plotLeft)) / 10, Min: x(s.Min), Max: x(s.Max),
			Fill: c.Series[i].Colour, Text: fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Min, s.Max),
		})
	}
	for _, b := range []struct {
		at           float64
		colour, dash string
	}{{g.Floor, floorColour, floorDash}, {g.Goal, goalColour, ""}} {
		if b.at != 0 {
			l.Marks = append(l.Marks, mark{X: x(b.at), Top: y - 4, Bottom: bottom + 4, Stroke: b.colour, Dash: b.dash})
		}
	}
	return l
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
