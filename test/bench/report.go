package main

import (
	"bytes"
	"fmt"
	"io"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
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
	if len(r.Loads) > 0 {
		r.reportLoads(&b)
	}
	if len(r.HotLoops) > 0 {
		r.reportHotLoops(&b)
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (r *result) reportRatios(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nRatio to veth: median (least to most)\n\n")
	rows := [][]string{{"", linkForwarder, linkXnetfrontd, "floor", "goal"}}
	for _, m := range r.Metrics {
		x := m.ratios(linkXnetfrontd, valueOf)
		rows = append(rows, []string{m.Title, m.ratios(linkForwarder, valueOf).String(), x.String(),
			figures.Verdict(x.Median, m.Floor, m.Less), figures.Verdict(x.Median, m.Goal, m.Less)})
		if m.Op == "rtt" {
			rows = append(rows, []string{p99Title, m.ratios(linkForwarder, p99Of).String(), m.ratios(linkXnetfrontd, p99Of).String(), "", ""})
		}
	}
	figures.Table(b, rows)
}

const p99Title = "round trip, 99th percentile"

func (r *result) reportAbsolute(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nMedians\n\n")
	rows := [][]string{{"", linkVeth, linkForwarder, linkXnetfrontd, ""}}
	for _, m := range r.Metrics {
		row := func(title string, figure func(sample) float64) {
			cells := []string{title}
			for _, l := range []string{linkVeth, linkForwarder, linkXnetfrontd} {
				cells = append(cells, figures.Number(m.absolute(l, figure)))
			}
			rows = append(rows, append(cells, m.Unit))
		}
		row(m.Title, valueOf)
		if m.Op == "rtt" {
			row(p99Title, p99Of)
		}
	}
	figures.Table(b, rows)
}

func (r *result) reportLoad(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nxnetfrontd's work in the loaded direction; a frame may be a super-frame of many packets\n\n")
	rows := [][]string{{"", "packets/notification", "floor", "frames/notification", "frames/event", "frames/publication"}}
	for _, m := range r.Metrics {
		if m.Loaded == "" {
			continue
		}
		sent := m.per("notify_sent", packets)
		rows = append(rows, []string{m.Title, figures.Number(sent), figures.Verdict(sent, notifyFloor, false),
			figures.Number(m.per("notify_sent", frames)), figures.Number(m.per("events", frames)), figures.Number(m.per("batches", frames))})
	}
	figures.Table(b, rows)

	fmt.Fprintf(b, "\nCPU time for each frame over the guest's end, both ways, µs\n\n")
	rows = [][]string{{"", "forwarder", "xnetfrontd", "its netback"}}
	for _, m := range r.Metrics {
		rows = append(rows, []string{m.Title, figures.Number(m.cpuPerFrame(linkForwarder, forwarderRole)),
			figures.Number(m.cpuPerFrame(linkXnetfrontd, daemonProcess)), figures.Number(m.cpuPerFrame(linkXnetfrontd, backendProcess))})
	}
	figures.Table(b, rows)
}

func (r *result) reportHotLoops(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nHot loops, medians\n\n")
	rows := [][]string{{"", "time", "", "allocations"}}
	for _, l := range r.HotLoops {
		var times []string
		for _, unit := range l.times() {
			times = append(times, figures.Number(figures.SpreadOf(l.Figures[unit]).Median)+" "+unit)
		}
		first, second := "", ""
		if len(times) > 0 {
			first = times[0]
		}
		if len(times) > 1 {
			second = times[1]
		}
		rows = append(rows, []string{l.Package + " " + l.Name, first, second, figures.Number(figures.SpreadOf(l.Figures["allocs/op"]).Max)})
	}
	figures.Table(b, rows)
}
