package bench

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
)

const meanTitle = "ping, mean"

// Report writes r for people: ratios first, since only they can be compared with
// another run's.
func (r *Result) Report(w io.Writer) error {
	var b bytes.Buffer
	m := r.Machine
	fmt.Fprintf(&b, "xnetfrontd %s in a guest (%s) with Linux %s on Xen %s, dom0 with Linux %s,\n", m.Revision, r.Type, r.Guest, r.Xen, r.Dom0)
	fmt.Fprintf(&b, "emulated on Linux %s, %d CPUs (%s, %s)\n", m.Kernel, m.CPUs, m.Processor, m.Arch)
	when := r.When.Format("2006-01-02 15:04")
	if len(r.Metrics) == 0 {
		fmt.Fprintf(&b, "%s\n", when)
	} else {
		fmt.Fprintf(&b, "%d pairs of samples of %d s, %s\n", r.Pairs, r.Seconds, when)
		r.reportRatios(&b)
		r.reportAbsolute(&b)
		r.reportNetback(&b)
	}
	r.reportLatency(&b)
	_, err := w.Write(b.Bytes())
	return err
}

// figure is a row of a report: a metric, or a second figure of one.
type figure struct {
	*Measured
	title string
	of    func(Sample) float64
	goal  float64
}

func (r *Result) figures() []figure {
	var all []figure
	for i := range r.Metrics {
		m := &r.Metrics[i]
		all = append(all, figure{m, m.Title, valueOf, m.Goal})
		if m.tool == toolPing {
			all = append(all, figure{m, meanTitle, meanOf, 0})
		}
	}
	return all
}

func (r *Result) reportRatios(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nRatio to the kernel's xen-netfront: median (least to most)\n\n")
	head := []string{"", Ours, "goal", "each pair"}
	if r.compared() {
		head = append(head, Baseline)
	}
	rows := [][]string{head}
	for _, f := range r.figures() {
		ratios := f.ratios(f.of)
		s := figures.SpreadOf(ratios)
		var each []string
		for _, v := range ratios {
			each = append(each, figures.Number(v))
		}
		row := []string{f.title, s.String(), figures.Verdict(s.Median, f.goal, f.Less), strings.Join(each, " ")}
		if r.compared() {
			row = append(row, figures.SpreadOf(f.ratiosOf(Baseline, f.of)).String())
		}
		rows = append(rows, row)
	}
	figures.Table(b, rows)
}

func (r *Result) reportAbsolute(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nMedians (least to most)\n\n")
	rows := [][]string{append(append([]string{""}, r.Frontends...), "")}
	for _, f := range r.figures() {
		row := []string{f.title}
		for _, frontend := range r.Frontends {
			row = append(row, figures.SpreadOf(f.figuresOf(frontend, f.of)).String())
		}
		rows = append(rows, append(row, f.Unit))
	}
	figures.Table(b, rows)
}

func (r *Result) reportNetback(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nNotifications that netback got in a sample, median, and how many of them found nothing to do, most\n\n")
	head := append([]string{""}, r.Frontends...)
	for _, frontend := range r.Frontends {
		head = append(head, frontend+", spurious")
	}
	rows := [][]string{head}
	for i := range r.Metrics {
		m := &r.Metrics[i]
		row := []string{m.Title}
		for _, frontend := range r.Frontends {
			row = append(row, figures.Number(figures.SpreadOf(m.figuresOf(frontend, eventsOf)).Median))
		}
		for _, frontend := range r.Frontends {
			row = append(row, figures.Number(figures.SpreadOf(m.figuresOf(frontend, spuriousOf)).Max))
		}
		rows = append(rows, row)
	}
	figures.Table(b, rows)
}

// Lines are the metrics in a line each, by their first pairs: for a look at a run whose
// figures are not the point.
func (r *Result) Lines() []string {
	var lines []string
	for i := range r.Metrics {
		m := &r.Metrics[i]
		lines = append(lines, m.Title+": "+m.line(m.Samples[0]))
	}
	for i := range r.Latency {
		c := &r.Latency[i]
		for j := range c.Figures {
			if m := &c.Figures[j]; m.Goal != 0 || m.Limit != 0 {
				lines = append(lines, c.title()+": "+m.Title+": "+m.line(m.Samples[0]))
			}
		}
	}
	return lines
}

// line is a pair in one line.
func (m *Measured) line(pair []Sample) string {
	var parts []string
	for _, s := range pair {
		parts = append(parts, s.Frontend+" "+figures.Number(s.Value))
	}
	return strings.Join(parts, ", ") + " " + m.Unit
}

// chart draws the ratios to the kernel's.
func (r *Result) chart() ([]byte, error) {
	m := r.Machine
	c := figures.Chart{
		Title: "xnetfrontd compared with the kernel's xen-netfront on an emulated Xen",
		Subtitle: fmt.Sprintf("%s, revision %s, Xen %s, Linux %s, dom0 with Linux %s, %d pairs of %d s",
			r.When.Format("2006-01-02"), m.Revision, r.Xen, r.Guest, r.Dom0, r.Pairs, r.Seconds),
		Base:   Kernel,
		Series: r.series(),
		Panels: []figures.Panel{
			{Title: "Throughput as a part of the kernel's: more is better"},
			{Title: "Time in multiples of the kernel's: less is better"},
		},
	}
	for _, f := range r.figures() {
		p := &c.Panels[0]
		if f.Less {
			p = &c.Panels[1]
		}
		p.Groups = append(p.Groups, figures.Group{Title: f.title, Goal: f.goal, Bars: r.bars(f.Measured, f.of)})
	}
	c.Panels = append(c.Panels, r.latencyPanels()...)
	return c.SVG()
}

// series are all frontends but the kernel's.
func (r *Result) series() []figures.Series {
	all := []figures.Series{{Name: Ours, Colour: figures.ColourMeasured}}
	if r.compared() {
		all = append(all, figures.Series{Name: Baseline, Colour: figures.ColourBeside})
	}
	return all
}
