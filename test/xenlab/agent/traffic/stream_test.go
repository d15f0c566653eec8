package traffic

import (
	"testing"
	"time"
)

func TestWholeStreamIsSeenWhole(t *testing.T) {
	a, b := pair(t)
	for _, to := range []string{"10.9.0.2:5002", "[fd09::2]:5002"} {
		sink := b.listen("stream-sink")
		src := a.start("stream", to, "--packets=2000", "--rate=5000", "--size=300")
		var sent Streamed
		src.result(&sent)
		src.end()
		var seen Seen
		sink.result(&seen)
		sink.end()
		if sent.Sent != 2000 || sent.Refused != 0 {
			t.Errorf("to %s: sent %+v", to, sent)
		}
		if seen.Received != 2000 || seen.Lost+seen.Duplicated+seen.Reordered+seen.Corrupted != 0 {
			t.Errorf("to %s: seen %+v", to, seen)
		}
		// No packet is sent before its time; how late they come is the machine's.
		if sent.Seconds < 1999.0/5000 {
			t.Errorf("to %s: 2000 packets at 5000/s were sent in %.3f s", to, sent.Seconds)
		}
	}
}

func TestSinkEndsWithWhatItHasWhenTheStreamStops(t *testing.T) {
	a, b := pair(t)
	sink := b.listen("stream-sink", "--quiet=30s")
	src := a.start("stream", "10.9.0.2:5002", "--packets=100000", "--rate=1000")
	time.Sleep(300 * time.Millisecond) // any time does
	src.stop()
	var sent Streamed
	src.result(&sent)
	src.end()
	sink.stop()
	var seen Seen
	sink.result(&seen)
	sink.end()
	if sent.Sent == 0 || seen.Received != sent.Sent || seen.Lost != 100000-sent.Sent {
		t.Errorf("sent %+v, seen %+v", sent, seen)
	}
}

// at returns packet n of total as bytes.
func at(n uint64, total uint32) []byte {
	b := make([]byte, 100)
	numbered{total: total, number: n, sent: time.Unix(1, 2)}.put(b)
	return b
}

func TestTallyTellsLostDuplicatedReorderedAndCorrupted(t *testing.T) {
	began := time.Unix(1000, 0)
	wrong := at(3, 10)
	wrong[99] ^= 1
	var y tally
	for i, b := range [][]byte{at(0, 10), at(1, 10), at(1, 10), at(4, 10), at(2, 10), wrong, at(5, 10), at(11, 10), at(6, 11), at(7, 10)[:20], {}} {
		y.add(b, began.Add(time.Duration(i*i)*time.Millisecond))
	}
	want := Seen{Total: 10, Received: 5, Lost: 5, Duplicated: 1, Reordered: 1, Corrupted: 5, GapMS: 20, GapAt: 5, Seconds: 0.036, JitterMS: 20}
	if got := y.seen(); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestHugeTotalTakesNoMemory(t *testing.T) {
	var y tally
	y.add(at(1, 1<<31), time.Now())
	if y.came != nil || y.seen().Corrupted != 1 {
		t.Errorf("%d bytes for a stream of 2^31 packets: %+v", len(y.came), y.seen())
	}
}

func FuzzTally(f *testing.F) {
	f.Add(at(0, 3))
	f.Add(at(2, 3)[:packetHeader])
	f.Fuzz(func(t *testing.T, b []byte) {
		var y tally
		y.add(b, time.Unix(1, 0))
		y.control(b, time.Unix(1, 0))
		if s := y.seen(); s.Received+s.Corrupted != 1 || s.Lost != s.Total-s.Received {
			t.Errorf("%+v", s)
		}
	})
}

func TestStreamWithoutARateEndsWithItsTime(t *testing.T) {
	a, b := pair(t)
	sink := b.listen("stream-sink", "--quiet=200ms")
	src := a.start("stream", "10.9.0.2:5002", "--packets=16777216", "--rate=0", "--for=200ms", "--size=1400")
	var sent Streamed
	src.result(&sent)
	src.end()
	var seen Seen
	sink.result(&seen)
	sink.end()
	if sent.Sent == 0 || sent.Sent == 1<<24 || sent.LateMS != 0 {
		t.Errorf("sent %+v", sent)
	}
	// The receiving kernel may have no room for some: its queue behind the wire is short.
	if came := seen.Received + seen.Overflowed; came == 0 || came > sent.Sent || seen.Duplicated+seen.Reordered+seen.Corrupted != 0 {
		t.Errorf("of %+v came %+v", sent, seen)
	}
}

func TestJitterIsOfTripsAndNotOfWhenPacketsWereSent(t *testing.T) {
	sent := time.Unix(1000, 0)
	ahead := time.Hour // of the receiver's clock
	var y tally
	for i, c := range []struct{ after, trip time.Duration }{
		{0, 5 * time.Millisecond}, {3 * time.Millisecond, 5 * time.Millisecond},
		{50 * time.Millisecond, 9 * time.Millisecond}, {90 * time.Millisecond, 8 * time.Millisecond},
	} {
		b := make([]byte, packetHeader)
		numbered{total: 4, number: uint64(i), sent: sent.Add(c.after)}.put(b)
		y.add(b, sent.Add(c.after+c.trip+ahead))
	}
	if got := y.seen().JitterMS; got != 4 {
		t.Errorf("%v ms, want 4", got)
	}
}
