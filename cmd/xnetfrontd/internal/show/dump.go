package show

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// Dump writes d as text for people.
func Dump(w io.Writer, d *control.Dump) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "vif %d on %s: %s, the backend %s; %s\n", d.DevID, d.TAP, d.State, d.BackendState, d.Taken.Format(time.DateTime))
	for _, q := range d.Queues {
		if q.Problem != "" {
			fmt.Fprintf(&b, "\nqueue %d: NOT ALL OF IT: %s\n", q.Number, q.Problem)
		}
		for _, dir := range []struct {
			name string
			ring *control.RingDump
		}{{"tx", q.Tx}, {"rx", q.Rx}} {
			if dir.ring != nil {
				fmt.Fprintf(&b, "\nqueue %d %s: ", q.Number, dir.name)
				dumpRing(&b, dir.ring, dir.name == "tx")
			}
		}
	}
	return flush(w, &b)
}

func dumpRing(b *bytes.Buffer, r *control.RingDump, aged bool) {
	port := "event channel"
	if r.Masked {
		port = "masked event channel"
	}
	fmt.Fprintf(b, "%d slots in the page granted as %d, %s %d\n", r.Size, r.Ref, port, r.Port)
	h := r.Shared
	for _, x := range []struct {
		name   string
		shared uint32
		text   string
	}{
		{"req_prod", h.ReqProd, ours(r)},
		{"req_event", h.ReqEvent, "the backend " + wants(h.ReqEvent-h.ReqProd, "request")},
		{"rsp_prod", h.RspProd, fmt.Sprintf("rsp_cons %d", r.RspCons)},
		{"rsp_event", h.RspEvent, "the frontend " + wants(h.RspEvent-h.RspProd, "response")},
	} {
		fmt.Fprintf(b, "  %-9s %10d  %s\n", x.name, x.shared, x.text)
	}
	line(b, "slots", "%d with the backend, %d answered and not taken, %d not published, %d free",
		h.ReqProd-h.RspProd, h.RspProd-r.RspCons, r.ReqProd-r.Published, r.Size-(r.ReqProd-r.RspCons))
	if r.Waiting {
		line(b, "", "there are frames to send, and no slots or maps for them")
	}
	if r.Partial > 0 {
		line(b, "", "%d slots of a frame have come, and its last has not", r.Partial)
	}
	m := r.Maps
	line(b, "maps", "%d: %d free, %d loaded, %d in flight, %d quarantined", m.Created, m.Free, m.Loaded, m.InFlight, m.Quarantined)
	dumpInFlight(b, r.InFlight, aged)
}

// ours are the frontend's own request indices.
func ours(r *control.RingDump) string {
	s := fmt.Sprintf("req_prod_pvt %d", r.ReqProd)
	if r.Published != r.Shared.ReqProd {
		s += fmt.Sprintf(", %d WAS PUBLISHED: somebody else has changed req_prod", r.Published)
	}
	return s
}

// wants explains an event word that is so many ahead of its producer.
func wants(ahead uint32, what string) string {
	switch n := int32(ahead); {
	case n <= 0:
		return "has had its event, or looks by itself"
	case n == 1:
		return "wants an event at the next " + what
	default:
		return fmt.Sprintf("wants an event at the %s after the next %d", what, n-1)
	}
}

// dumpInFlight writes a line for each run of maps whose ids, grants and slots follow each
// other. Rx buffers have no age: they wait for frames.
func dumpInFlight(b *bytes.Buffer, list []control.InFlight, aged bool) {
	if len(list) == 0 {
		line(b, "in flight", "none")
		return
	}
	var rows bytes.Buffer
	t := tabwriter.NewWriter(&rows, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		if !aged {
			cells = cells[:len(cells)-1]
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	row("REQUEST", "SLOT", "ID", "GRANT", "AGE")
	for len(list) > 0 {
		n := 1
		for n < len(list) && follows(list[n-1], list[n]) {
			n++
		}
		a, z := list[0], list[n-1]
		row(span(a.Index, z.Index), span(a.Slot, z.Slot), span(uint32(a.ID), uint32(z.ID)), span(a.Ref, z.Ref), fmt.Sprintf("%ds", a.Age))
		list = list[n:]
	}
	t.Flush() // a write to a bytes.Buffer does not fail
	name := "in flight"
	for text := range strings.Lines(rows.String()) {
		line(b, name, "%s", strings.TrimSpace(text))
		name = ""
	}
}

func follows(a, b control.InFlight) bool {
	return b.Index == a.Index+1 && b.Slot == a.Slot+1 && b.ID == a.ID+1 && b.Ref == a.Ref+1 && b.Age == a.Age
}

func span(first, last uint32) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}
