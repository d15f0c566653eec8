package traffic

import (
	"encoding/binary"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxTrips bounds the memory for differences of trips: an hour of a phone call's packets.
const maxTrips = 1 << 18

// maxTotal bounds the memory that a packet from anywhere can make a tally take.
const maxTotal = 1 << 24

// tally counts the packets of one stream. Its zero value has seen nothing.
type tally struct {
	s           Seen
	came        []bool // by number
	highest     uint64
	first, last time.Time

	trip  time.Duration // of the packet before, plus what the two clocks differ by
	trips []float64     // by how much a packet's trip differed from that of the one before, in ms
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
	t.vary(now.Sub(p.sent))
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

// vary notes how a packet's trip differs from that of the one before: the variation of
// delay that a call's listener has to buffer (RFC 3393).
func (t *tally) vary(trip time.Duration) {
	if t.s.Received > 0 && len(t.trips) < maxTrips {
		t.trips = append(t.trips, float64((trip-t.trip).Abs())/1e6)
	}
	t.trip = trip
}

// control takes what the kernel says of a packet out of its control messages: how many it
// has dropped (SO_RXQ_OVFL in socket(7)), and when this one came (SO_TIMESTAMPNS), which
// is now if it does not say.
func (t *tally) control(oob []byte, now time.Time) (came time.Time) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return now
	}
	came = now
	for _, m := range msgs {
		switch {
		case m.Header.Level != unix.SOL_SOCKET:
		case m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4:
			t.s.Overflowed = int(binary.NativeEndian.Uint32(m.Data))
		case m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16: // struct timespec
			came = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return came
}

// whole tells whether every number has come.
func (t *tally) whole() bool { return t.came != nil && t.s.Received == t.s.Total }

func (t *tally) seen() Seen {
	s := t.s
	s.Lost = s.Total - s.Received
	s.Seconds = t.last.Sub(t.first).Seconds()
	if len(t.trips) > 0 {
		slices.Sort(t.trips)
		s.JitterMS = Percentile(t.trips, 95)
	}
	return s
}
