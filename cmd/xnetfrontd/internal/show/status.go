package show

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// slow is the number of seconds after which a frame at the backend is worth a line. A frame
// normally takes a fraction of a millisecond.
const slow = 2

// Status writes s as text for people.
func Status(w io.Writer, s *control.Status, now time.Time) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "xnetfrontd %s, pid %d, up %s\n", s.Program, s.PID, Age(s.Started, now))
	if !s.EventsLateSince.IsZero() {
		fmt.Fprintf(&b, "LATE: xenstore's events have not come for %s: a driver of the guest's kernel waits for its backend; see dmesg\n", Age(s.EventsLateSince, now))
	}
	for _, v := range s.Vifs {
		fmt.Fprintln(&b)
		printVif(&b, s, v, now)
	}
	return flush(w, &b)
}

func printVif(b *bytes.Buffer, s *control.Status, v control.Vif, now time.Time) {
	d := v.Device
	head := "vif " + v.Name()
	if v.TAP != "" {
		head += " on " + v.TAP
	}
	if v.Problem != "" {
		fmt.Fprintf(b, "%s: NOT SERVED for %s: %s\n", head, Age(v.Since, now), v.Problem)
	}
	if v.Waiting != "" && d == nil {
		fmt.Fprintf(b, "%s: waiting for the vif for %s: %s\n", head, Age(v.Since, now), v.Waiting)
	}
	if d == nil {
		return
	}
	fmt.Fprintf(b, "%s: %s for %s\n", head, d.State, Age(d.Since, now))
	if v.Waiting != "" {
		line(b, "detached", "for %s: %s", Age(v.Since, now), v.Waiting)
	}
	if d.Awaits != "" {
		line(b, "awaits", "%s", d.Awaits)
	}
	if d.Disabled {
		line(b, "disabled", "by the toolstack: no carrier")
	}
	if d.Off != "" {
		line(b, "OFF", "%s; `xnetfrontd retry %s` takes it up again", d.Off, v.Name())
	} else if d.Reason != "" {
		line(b, "reason", "%s", d.Reason)
	}
	for _, q := range d.Queues {
		if q.Tx.OldestInFlight >= slow {
			line(b, "SLOW", "the backend has had a frame of queue %d for %d s without an answer", q.Number, q.Tx.OldestInFlight)
		}
	}
	address := d.MAC
	if d.LinkMAC != "" {
		address = d.LinkMAC + " instead of the vif's " + d.MAC
	}
	where := ""
	if d.NetNS != "" {
		where = ", in network namespace " + d.NetNS
	}
	if d.MTU == 0 { // in a namespace that the daemon may not look into
		line(b, "link", "address %s%s", address, where)
	} else {
		line(b, "link", "index %d, address %s, MTU %d%s", d.IfIndex, address, d.MTU, where)
		if !d.LinkUp {
			line(b, "DOWN", "the link is down: no frame passes before `ip link set %s up`%s", d.TAP, where)
		}
	}
	if d.MTURefused != "" {
		line(b, "MTU", "the toolstack's cannot be used: %s", d.MTURefused)
	}
	if v.Renamed != "" {
		line(b, "name", "%s in the configuration", v.Renamed)
	}
	backend := d.BackendState
	if !d.BackendSince.IsZero() {
		backend += fmt.Sprintf(" for %s", Age(d.BackendSince, now))
	}
	line(b, "backend", "%s: %s in domain %d", backend, d.Backend, d.BackendDomID)
	line(b, "history", "connections so far: %d%s", d.Connects, ended(d))
	switch {
	case len(d.Queues) > 0:
		line(b, "features", "%s", FeatureList(d.Features))
	case d.Connects > 0:
		line(b, "features", "of the last connection: %s", FeatureList(d.Features))
	default:
		line(b, "features", "nothing was agreed on yet")
	}
	for _, name := range slices.Sorted(maps.Keys(d.Missing)) {
		line(b, "without", "%s: %s", name, d.Missing[name])
	}
	if text := shaping(&d.Shaping); text != "" {
		line(b, "shaping", "%s", text)
	}
	for _, text := range Waits(d) {
		line(b, "waits", "%s", text)
	}
	line(b, "grants", "%d pages%s", d.Grants, left(s))
	if l := d.Link; l != nil {
		line(b, "kernel", "sent %d packets, %d bytes, dropped %d; received %d packets, %d bytes, dropped %d",
			l.TxPackets, l.TxBytes, l.TxDropped, l.RxPackets, l.RxBytes, l.RxDropped)
	}
	for _, t := range d.Totals {
		for _, dir := range []struct {
			name     string
			counters map[string]uint64
		}{{"tx", t.Tx}, {"rx", t.Rx}} {
			if lost := Losses(dir.counters); len(lost) > 0 {
				line(b, "lost", "in queue %d %s: %s", t.Number, dir.name, lossText(lost))
			}
		}
	}
	if len(d.Queues) > 0 {
		fmt.Fprintln(b)
		printQueues(b, d)
	}
}

// left is the number of pages that can still be granted, as text.
func left(s *control.Status) string {
	if s.GrantsLimit == 0 {
		return ""
	}
	return fmt.Sprintf("; all vifs have %d of the %d that the guest may grant, %d are left",
		s.GrantsUsed, s.GrantsLimit, max(0, s.GrantsLimit-s.GrantsUsed))
}

// Queues writes the table of d's queues: a row for each direction, tx being from
// the TAP to the ring.
func Queues(w io.Writer, d *control.Device) error {
	var b bytes.Buffer
	printQueues(&b, d)
	return flush(w, &b)
}

// columns of the table of queues, with the counters that add up to each.
var columns = []struct {
	head     string
	counters []string
}{
	{"PACKETS", []string{"packets"}},
	{"BYTES", []string{"bytes"}},
	{"SLOTS", []string{"slots"}},
	{"NOTIFIES", []string{"notify_sent"}},
	{"SUPPRESSED", []string{"notify_suppressed"}},
	{"DROPS", []string{"drop_too_big", "drop_malformed", "drop_tap_error", "drop_backend_error", "drop_slots", "backend_error", "backend_dropped"}},
}

func printQueues(b *bytes.Buffer, d *control.Device) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { fmt.Fprintf(t, "%s\t\n", strings.Join(cells, "\t")) }
	head := []string{"  QUEUE", ""}
	for _, c := range columns {
		head = append(head, c.head)
	}
	row(append(head, "MAPS", "FREE", "LOADED", "IN FLIGHT", "QUARANTINED")...)
	for _, q := range d.Queues {
		for _, dir := range []struct {
			name string
			control.Direction
		}{{"tx", q.Tx}, {"rx", q.Rx}} {
			cells := []string{fmt.Sprint(q.Number), dir.name}
			for _, c := range columns {
				sum := uint64(0)
				for _, name := range c.counters {
					sum += dir.Counters[name]
				}
				cells = append(cells, fmt.Sprint(sum))
			}
			m := dir.Maps
			for _, n := range []uint32{m.Created, m.Free, m.Loaded, m.InFlight, m.Quarantined} {
				cells = append(cells, fmt.Sprint(n))
			}
			row(cells...)
		}
	}
	t.Flush() // to a bytes.Buffer, which does not fail
}

// FeatureList is the list of features, by the names of the configuration's `disable`.
func FeatureList(f control.Features) string {
	names := f.Names()
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, " ")
}

// ended tells why connections have ended, and whether an earlier process began the present
// one.
func ended(d *control.Device) string {
	var b strings.Builder
	if d.TakenOver {
		b.WriteString(", taken over from an earlier process")
	}
	for i, cause := range slices.Sorted(maps.Keys(d.Ended)) {
		sep := ", "
		if i == 0 {
			sep = "; ended: "
		}
		fmt.Fprintf(&b, "%s%s %d", sep, cause, d.Ended[cause])
	}
	return b.String()
}
