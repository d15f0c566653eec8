package show

import (
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// noticeable is the shortest wait that is worth a line, in seconds.
const noticeable = 0.001

// Waits tells of each queue of d where frames from the guest wait, and about how long. It has
// no line for a queue without a noticeable wait.
func Waits(d *control.Device) []string {
	var texts []string
	for _, q := range d.Queues {
		w := q.Wait
		if w.QdiscSeconds < noticeable && w.RingSeconds < noticeable {
			continue
		}
		text := fmt.Sprintf("queue %d carries %s", q.Number, bitRate(w.Carried))
		if d := w.Qdisc; d != nil {
			text += fmt.Sprintf("; %d frames wait about %s in %s", d.Frames, millis(w.QdiscSeconds), d.Kind)
			if d.Dropped > 0 || d.Marked > 0 {
				text += fmt.Sprintf(" (dropped %d, marked %d so far)", d.Dropped, d.Marked)
			}
		}
		texts = append(texts, fmt.Sprintf("%s; %d bytes about %s on the ring", text, w.RingBytes, millis(w.RingSeconds)))
	}
	return texts
}

// shaping tells how frames are held back. It is empty if they are not, and need not be.
func shaping(s *control.Shaping) string {
	switch s.Mode {
	case control.ShapingRate:
		return fmt.Sprintf("the backend takes %s from each queue; frames wait in the guest's queueing discipline", bitRate(s.Limit))
	case control.ShapingMeasured:
		return "the backend is slow; frames wait in the guest's queueing discipline"
	case control.ShapingRefused:
		return "no: " + s.Reason
	case control.ShapingOff:
		return "off"
	}
	return ""
}

func millis(seconds float64) string { return fmt.Sprintf("%.0f ms", 1000*seconds) }

// bitRate is a rate in bytes a second as text in bits.
func bitRate(bytes uint64) string {
	bits := 8 * float64(bytes)
	for _, unit := range []string{"bit/s", "kbit/s", "Mbit/s"} {
		if bits < 1000 {
			return fmt.Sprintf("%.3g %s", bits, unit)
		}
		bits /= 1000
	}
	return fmt.Sprintf("%.3g Gbit/s", bits)
}
