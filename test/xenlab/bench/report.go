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
	fmt.Fprintf(&b, "%d pairs of samples of %d s, %s\n", r.Pairs, r.Seconds, r.When.Format("2006-01-02 15:04"))
	r.reportRatios(&b)
	r.reportAbsolute(&b)
	r.reportNetback(&b)
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
	rows := [][]string{{"", Ours, "goal", "each pair"}}
	for _, f := range r.figures() {
		ratios := f.ratios(f.of)
		s := figures.SpreadOf(ratios)
		var each []string
		for _, v := range ratios {
			each = append(each, figures.Number(v))
		}
		rows = append(rows, []string{f.title, s.String(), figures.Verdict(s.Median, f.goal, f.Less), strings.Join(each, " ")})
	}
	figures.Table(b, rows)
}

func (r *Result) reportAbsolute(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nMedians (least to most)\n\n")
	rows := [][]string{{"", Kernel, Ours, ""}}
	for _, f := range r.figures() {
		rows = append(rows, []string{f.title, figures.SpreadOf(f.figuresOf(Kernel, f.of)).String(),
			figures.SpreadOf(f.figuresOf(Ours, f.of)).String(), f.Unit})
	}
	figures.Table(b, rows)
}

func (r *Result) reportNetback(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nNotifications that netback got in a sample, median, and how many of them found nothing to do, most\n\n")
	rows := [][]string{{"", Kernel, Ours, Kernel + ", spurious", Ours + ", spurious"}}
	for i := range r.Metrics {
		m := &r.Metrics[i]
		row := []string{m.Title}
		for _, frontend := range []string{Kernel, Ours} {
			row = append(row, figures.Number(figures.SpreadOf(m.figuresOf(frontend, eventsOf)).Median))
		}
		for _, frontend := range []string{Kernel, Ours} {
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
		Series: []figures.Series{{Name: Ours, Colour: figures.ColourMeasured}},
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
		p.Groups = append(p.Groups, figures.Group{Title: f.title, Goal: f.goal, Bars: []figures.Spread{figures.SpreadOf(f.ratios(f.of))}})
	}
	return c.SVG()
}
