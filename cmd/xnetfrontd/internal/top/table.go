package top

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/show"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
)

// rowFormat makes a row of the table, of 79 columns.
const rowFormat = "%5s %2s %9s %9s %8s %6s %7s %7s %9s %7s"

var tableHead = fmt.Sprintf(rowFormat, "QUEUE", "", "PACKETS/s", "BITS/s", "SLOTS", "FREE", "FLIGHT", "BATCH", "NOTIFY/k", "OLDEST")

// table returns a frame as lines for a terminal of so many columns.
func table(f frame, every time.Duration, width int) []string {
	if f.away != nil {
		head := fmt.Sprintf("xnetfrontd: nothing to show, %s; asking every %s; q ends", f.at.Format(time.TimeOnly), every)
		return append([]string{head, ""}, wrap(f.away.Error(), width)...)
	}
	lines := []string{fmt.Sprintf("xnetfrontd %s, pid %d, up %s; %s, every %s; q ends",
		f.status.Program, f.status.PID, show.Age(f.status.Started, f.at), f.at.Format(time.TimeOnly), every)}
	if len(f.vifs) == 0 {
		lines = append(lines, "", "the daemon serves no vif")
	}
	for i := range f.vifs {
		lines = append(lines, "")
		lines = append(lines, tableVif(&f.vifs[i], f.at, width)...)
	}
	return lines
}

func tableVif(v *vif, now time.Time, width int) []string {
	head := "vif " + v.Name()
	if v.TAP != "" {
		head += " on " + v.TAP
	}
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, wrap(fmt.Sprintf(format, args...), width)...) }
	switch d := v.Device; {
	case v.Problem != "":
		add("%s: NOT SERVED for %s: %s", head, show.Age(v.Since, now), v.Problem)
	case v.Waiting != "":
		add("%s: not there for %s: %s", head, show.Age(v.Since, now), v.Waiting)
	case d == nil:
		add("%s: about to be served", head)
	default:
		add("%s: %s for %s, the backend %s", head, d.State, show.Age(d.Since, now), d.BackendState)
		if d.Reason != "" {
			add("  %s", d.Reason)
		}
	}
	if len(v.rows) == 0 {
		return lines
	}
	lines = append(lines, tableHead)
	for i := range v.rows {
		lines = append(lines, tableRow(&v.rows[i]))
	}
	for i := range v.rows {
		r := &v.rows[i]
		if text := lossText(r); text != "" {
			add("  lost in queue %d %s: %s", r.queue, r.name, text)
		}
	}
	if v.Device != nil {
		for _, text := range show.Waits(v.Device) {
			add("  %s", text)
		}
	}
	if v.tapDropsTotal > 0 {
		text := fmt.Sprint(v.tapDropsTotal)
		if v.tapDrops > 0 {
			text += fmt.Sprintf(" (+%d)", v.tapDrops)
		}
		add("  lost before the queues, for want of room in the TAP's: %s", text)
	}
	return lines
}

func tableRow(r *row) string {
	queue := ""
	if r.name == "tx" {
		queue = fmt.Sprint(r.queue)
	}
	used, free, flying, oldest := unknown, unknown, unknown, ""
	if n, ok := r.used(); ok {
		used = fmt.Sprintf("%d/%d", n, ringSize[r.name])
	}
	if r.now != nil {
		free, flying = fmt.Sprint(r.now.Maps.Free), fmt.Sprint(r.now.Maps.InFlight)
	}
	if n, ok := r.oldest(); ok {
		oldest = fmt.Sprintf("%ds", n)
	}
	return strings.TrimRight(fmt.Sprintf(rowFormat, queue, r.name, short(r.rate("packets")), short(r.rate("bytes").times(8)), used, free, flying,
		tenths(r.per("slots", "batches")), tenths(r.per("notify_sent", "packets").times(1000)), oldest), " ")
}

// lossText is the list of all causes with their totals and increases.
func lossText(r *row) string {
	var texts []string
	for _, l := range show.Losses(r.total) {
		text := fmt.Sprintf("%s %d", l.Cause, l.Count)
		for _, m := range show.Losses(r.moved) {
			if m.Cause == l.Cause {
				text += fmt.Sprintf(" (+%d)", m.Count)
			}
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

// short is a number in at most six characters, with the prefixes of the SI.
func short(f figure) string {
	if !f.known {
		return unknown
	}
	v := f.value
	for _, unit := range []string{"", "k", "M", "G", "T"} {
		switch {
		case v < 9.995 && unit != "":
			return fmt.Sprintf("%.2f%s", v, unit)
		case v < 99.95 && unit != "":
			return fmt.Sprintf("%.1f%s", v, unit)
		case v < 999.5:
			return fmt.Sprintf("%.0f%s", v, unit)
		}
		v /= 1000
	}
	return fmt.Sprintf("%.0fP", v)
}

// wrap breaks a text into lines of so many columns, between words where that is possible.
func wrap(text string, width int) []string {
	const indent = "    "
	if width <= 2*len(indent) {
		return []string{text}
	}
	var lines []string
	rest := []rune(text)
	for len(rest) > width {
		at := width
		for i := width; i > width/2; i-- {
			if rest[i] == ' ' {
				at = i
				break
			}
		}
		lines = append(lines, string(rest[:at]))
		rest = []rune(indent + strings.TrimLeft(string(rest[at:]), " "))
	}
	return append(lines, string(rest))
}

// fit makes lines fit a terminal: none wraps, and there are no more than rows. It counts the
// lines that it leaves out.
func fit(lines []string, width, height int) []string {
	if n := len(lines) - height; n > 0 && height > 0 {
		lines = append(lines[:height-1:height-1], fmt.Sprintf("%d more lines: name a vif, or make the window higher", n+1))
	}
	out := make([]string, len(lines))
	for i, l := range lines {
		l = printable.Line(l)
		if width > 0 && utf8.RuneCountInString(l) > width {
			l = string([]rune(l)[:width])
		}
		out[i] = l
	}
	return out
}
