package traffic

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// maxTotal bounds the memory that a packet from anywhere can make a tally take.
const maxTotal = 1 << 24

// tally counts the packets of one stream. Its zero value has seen nothing.
type tally struct {
	s           Seen
	came        []bool // by number
	highest     uint64
	first, last time.Time
}

// add counts a packet that came at now.
func (t *tally) add(b []byte, now time.Time) {
	p, ok := parseNumbered(b)
	if !ok || p.total > maxTotal || t.came != nil && int(p.total) != t.s.Total {
		t.s.Corrupted++
		return
	}
	if t.came == nil {
		t.s.Total = int(p.total)
		t.came = make([]bool, p.total)
		t.first, t.last = now, now
	}
	if gap := float64(now.Sub(t.last)) / 1e6; gap > t.s.GapMS {
		t.s.GapMS, t.s.GapAt = gap, int(p.number)
	}
	t.last = now
	if t.came[p.number] {
		t.s.Duplicated++
		return
	}
	t.came[p.number] = true
	t.s.Received++
	if p.number < t.highest {
		t.s.Reordered++
	}
	t.highest = max(t.highest, p.number)
}

// overflow takes the kernel's count of dropped packets out of a packet's control
// messages (SO_RXQ_OVFL in socket(7)).
func (t *tally) overflow(oob []byte) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4 {
			t.s.Overflowed = int(binary.NativeEndian.Uint32(m.Data))
		}
	}
}

// whole tells whether every number has come.
func (t *tally) whole() bool { return t.came != nil && t.s.Received == t.s.Total }

func (t *tally) seen() Seen {
	s := t.s
	s.Lost = s.Total - s.Received
	s.Seconds = t.last.Sub(t.first).Seconds()
	return s
}
