package top

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/show"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
)

// plainColumns are the fields of a line, in order. Blanks separate them, none is empty, and
// "-" stands for a value that is not known. A line that begins with '#' belongs to no vif.
var plainColumns = []string{
	"time", "vif", "tap", "state", "backend", "queue", "dir", "packets/s", "bits/s", "slots", "ring",
	"maps_free", "maps_in_flight", "batch", "notifies/1000", "drops/s", "drops", "oldest_s",
}

const unknown = "-"

// plainHeader writes the line that names the columns.
func plainHeader(w io.Writer) error {
	_, err := fmt.Fprintln(w, "#", strings.Join(plainColumns, " "))
	return err
}

// plain writes the lines of a frame.
func plain(w io.Writer, f frame) error {
	var b strings.Builder
	at := f.at.Format("2006-01-02T15:04:05")
	comment := func(text string) { fmt.Fprintf(&b, "# %s %s\n", at, text) }
	switch {
	case f.away != nil:
		comment(f.away.Error())
	case f.fresh:
		comment(fmt.Sprintf("xnetfrontd %s, pid %d", f.status.Program, f.status.PID))
	default:
		for i := range f.vifs {
			plainVif(&b, at, &f.vifs[i])
		}
	}
	_, err := io.WriteString(w, printable.Text(b.String()))
	return err
}

func plainVif(b *strings.Builder, at string, v *vif) {
	head := []string{at, v.Name(), field(v.TAP), condition(v), unknown}
	if v.Device != nil {
		head[4] = field(v.Device.BackendState)
	}
	if len(v.rows) == 0 {
		cells := append(head, strings.Fields(strings.Repeat(unknown+" ", len(plainColumns)-len(head)))...)
		fmt.Fprintln(b, strings.Join(cells, " "))
	}
	for i := range v.rows {
		r := &v.rows[i]
		cells := append(head, strconv.Itoa(r.queue), r.name, whole(r.rate("packets")), whole(r.rate("bytes").times(8)))
		slots, free, flying := unknown, unknown, unknown
		if n, ok := r.used(); ok {
			slots = fmt.Sprint(n)
		}
		if r.now != nil {
			free, flying = fmt.Sprint(r.now.Maps.Free), fmt.Sprint(r.now.Maps.InFlight)
		}
		cells = append(cells, slots, fmt.Sprint(ringSize[r.name]), free, flying,
			tenths(r.per("slots", "batches")), tenths(r.per("notify_sent", "packets").times(1000)))
		lost, count := show.Losses(r.moved), uint64(0)
		for _, l := range lost {
			count += l.Count
		}
		rate := figure{float64(count) / r.every, r.moved != nil}
		oldest := unknown
		if n, ok := r.oldest(); ok {
			oldest = fmt.Sprint(n)
		}
		cells = append(cells, tenths(rate), causes(lost), oldest)
		fmt.Fprintln(b, strings.Join(cells, " "))
	}
}

// condition is a vif's state in one word.
func condition(v *vif) string {
	switch {
	case v.Problem != "":
		return "not-served"
	case v.Waiting != "":
		return "not-there"
	case v.Device == nil:
		return "starting"
	}
	return field(v.Device.State)
}

// causes are the causes of losses, as one field.
func causes(list []show.Loss) string {
	var names []string
	for _, l := range list {
		names = append(names, fmt.Sprintf("%s=%d", l.Cause, l.Count))
	}
	return field(strings.Join(names, ","))
}

// field is s as one field of a line.
func field(s string) string {
	if s == "" {
		return unknown
	}
	return strings.Join(strings.Fields(s), "_")
}

func whole(f figure) string  { return f.format(0) }
func tenths(f figure) string { return f.format(1) }

func (f figure) format(digits int) string {
	if !f.known {
		return unknown
	}
	return strconv.FormatFloat(f.value, 'f', digits, 64)
}
