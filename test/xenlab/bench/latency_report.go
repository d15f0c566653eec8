package bench

import (
	"bytes"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
)

// reportLatency writes a table for each case: what each frontend has, and our ratios.
func (r *Result) reportLatency(b *bytes.Buffer) {
	if len(r.Latency) == 0 {
		return
	}
	fmt.Fprintf(b, "\nLatency under load: uploads of %d s, %d pairs, medians (least to most)\n", r.Upload, r.Pairs)
	for i := range r.Latency {
		c := &r.Latency[i]
		head := append([]string{c.title()}, r.Frontends...)
		head = append(head, "", "ratio of "+Ours, "goal")
		if r.compared() {
			head = append(head, "of "+Baseline)
		}
		rows := [][]string{head}
		for j := range c.Figures {
			rows = append(rows, r.latencyRow(&c.Figures[j]))
		}
		b.WriteString("\n")
		figures.Table(b, rows)
	}
}

// compared tells whether there is a baseline.
func (r *Result) compared() bool { return len(r.Frontends) > 2 }

func (r *Result) latencyRow(m *Measured) []string {
	cells := []string{m.Title}
	for _, frontend := range r.Frontends {
		cells = append(cells, inCell(figures.SpreadOf(m.figuresOf(frontend, valueOf))))
	}
	cells = append(cells, m.Unit, m.ratioCell(Ours), m.verdict())
	if r.compared() {
		cells = append(cells, m.ratioCell(Baseline))
	}
	return cells
}

// ratioCell is a frontend's ratio to the kernel, if there is one.
func (m *Measured) ratioCell(frontend string) string {
	if m.absolute {
		return ""
	}
	if s := m.spreadOf(frontend); s != nil {
		return inCell(*s)
	}
	return ""
}

// inCell leaves out what is no spread, as that of a single pair.
func inCell(s figures.Spread) string {
	if s.Min == s.Max {
		return figures.Number(s.Median)
	}
	return s.String()
}

func (m *Measured) verdict() string {
	if m.Limit != 0 {
		return figures.Verdict(figures.SpreadOf(m.figuresOf(Ours, valueOf)).Median, m.Limit, m.Less)
	}
	return figures.Verdict(figures.SpreadOf(m.ratios(valueOf)).Median, m.Goal, m.Less)
}

// latencyPanels are those of the chart: a bar for each case with uploads.
func (r *Result) latencyPanels() []figures.Panel {
	var panels []figures.Panel
	for _, p := range []struct{ id, title string }{
		{"ping", "Average of pings under load in multiples of the kernel's: less is better"},
		{"upload", "Throughput of uploads as a part of the kernel's: more is better"},
	} {
		panel := figures.Panel{Title: p.title}
		for i := range r.Latency {
			c := &r.Latency[i]
			for j := range c.Figures {
				if m := &c.Figures[j]; c.Uploads > 0 && m.ID == p.id {
					panel.Groups = append(panel.Groups, figures.Group{Title: c.title(), Goal: m.Goal, Bars: r.bars(m, valueOf)})
				}
			}
		}
		panels = append(panels, panel)
	}
	return panels
}

// bars are the ratios of all frontends but the kernel's.
func (r *Result) bars(m *Measured, figure func(Sample) float64) []figures.Spread {
	var bars []figures.Spread
	for _, frontend := range r.Frontends[1:] {
		bars = append(bars, figures.SpreadOf(m.ratiosOf(frontend, figure)))
	}
	return bars
}
