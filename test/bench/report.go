package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"
)

// report writes r for people: ratios first, since only they can be compared with
// another day's.
func (r *result) report(w io.Writer) error {
	var b bytes.Buffer
	m := r.Machine
	fmt.Fprintf(&b, "xnetfrontd %s on Linux %s, %d CPUs (%s, %s), %s\n", m.Revision, m.Kernel, m.CPUs, m.Processor, m.Arch, m.Go)
	if len(r.Metrics) > 0 {
		fmt.Fprintf(&b, "%d pairs of samples of %g s, %s\n", r.Pairs, r.Seconds, r.When.Format("2006-01-02 15:04"))
		r.reportRatios(&b)
		r.reportAbsolute(&b)
		r.reportLoad(&b)
	}
	if len(r.HotLoops) > 0 {
		r.reportHotLoops(&b)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// table writes rows of cells in columns, the first one to the left and the others to
// the right. All rows have as many cells.
func table(b *bytes.Buffer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		line := fmt.Sprintf("%-*s", widths[0], row[0])
		for i, cell := range row[1:] {
			line += fmt.Sprintf("   %*s", widths[i+1], cell)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

func (r *result) reportRatios(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nRatio to veth: median (least to most)\n\n")
	rows := [][]string{{"", linkForwarder, linkXnetfrontd, "floor", "goal"}}
	for _, m := range r.Metrics {
		x := m.ratios(linkXnetfrontd, valueOf)
		rows = append(rows, []string{m.Title, m.ratios(linkForwarder, valueOf).String(), x.String(),
			m.verdict(x.Median, m.Floor), m.verdict(x.Median, m.Goal)})
		if m.Op == "rtt" {
			rows = append(rows, []string{p99Title, m.ratios(linkForwarder, p99Of).String(), m.ratios(linkXnetfrontd, p99Of).String(), "", ""})
		}
	}
	table(b, rows)
}

const p99Title = "round trip, 99th percentile"

// verdict tells whether a ratio reaches a bound.
func (m *metric) verdict(ratio, bound float64) string {
	if bound == 0 {
		return ""
	}
	sign, word := "≥", "missed"
	if m.Less {
		sign = "≤"
	}
	if m.meets(ratio, bound) {
		word = "met"
	}
	return fmt.Sprintf("%s %s %6s", sign, number(bound), word)
}

func (r *result) reportAbsolute(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nMedians\n\n")
	rows := [][]string{{"", linkVeth, linkForwarder, linkXnetfrontd, ""}}
	for _, m := range r.Metrics {
		row := func(title string, figure func(sample) float64) {
			cells := []string{title}
			for _, l := range []string{linkVeth, linkForwarder, linkXnetfrontd} {
				cells = append(cells, number(m.absolute(l, figure)))
			}
			rows = append(rows, append(cells, m.Unit))
		}
		row(m.Title, valueOf)
		if m.Op == "rtt" {
			row(p99Title, p99Of)
		}
	}
	table(b, rows)
}

func (r *result) reportLoad(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nxnetfrontd's work in the loaded direction; a frame may be a super-frame of many packets\n\n")
	rows := [][]string{{"", "packets/notification", "floor", "frames/notification", "frames/event", "frames/publication"}}
	for _, m := range r.Metrics {
		if m.Loaded == "" {
			continue
		}
		sent := m.per("notify_sent", packets)
		rows = append(rows, []string{m.Title, number(sent), (&metric{}).verdict(sent, notifyFloor),
			number(m.per("notify_sent", frames)), number(m.per("events", frames)), number(m.per("batches", frames))})
	}
	table(b, rows)

	fmt.Fprintf(b, "\nCPU time for each frame over the guest's end, both ways, µs\n\n")
	rows = [][]string{{"", "forwarder", "xnetfrontd", "its netback"}}
	for _, m := range r.Metrics {
		rows = append(rows, []string{m.Title, number(m.cpuPerFrame(linkForwarder, forwarderRole)),
			number(m.cpuPerFrame(linkXnetfrontd, daemonProcess)), number(m.cpuPerFrame(linkXnetfrontd, backendProcess))})
	}
	table(b, rows)
}

func (r *result) reportHotLoops(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nHot loops, medians\n\n")
	rows := [][]string{{"", "time", "", "allocations"}}
	for _, l := range r.HotLoops {
		var times []string
		for _, unit := range l.times() {
			times = append(times, number(spreadOf(l.Figures[unit]).Median)+" "+unit)
		}
		first, second := "", ""
		if len(times) > 0 {
			first = times[0]
		}
		if len(times) > 1 {
			second = times[1]
		}
		rows = append(rows, []string{l.Package + " " + l.Name, first, second, number(spreadOf(l.Figures["allocs/op"]).Max)})
	}
	table(b, rows)
}

// String is the median, and where the figures lie.
func (s spread) String() string {
	return fmt.Sprintf("%s (%s to %s)", number(s.Median), number(s.Min), number(s.Max))
}

// number writes a figure with as many digits as matter.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case math.IsInf(v, 0):
		return "none"
	case a == math.Trunc(a) && a < 1000:
		return fmt.Sprintf("%.0f", v)
	case a < 10:
		return fmt.Sprintf("%.2f", v)
	case a < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
