package pcapng

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

var (
	testMAC  = net.HardwareAddr{0, 0x16, 0x3e, 1, 2, 3}
	testTime = time.Unix(1_700_000_000, 123_456_789)
)

// testStream has two interfaces, three packets, one with a comment of that length, and
// statistics of both.
func testStream(t testing.TB, comment int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, Section{Hardware: "amd64", OS: "linux", Application: "xnetfrontd 1", Comment: "of a test"})
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	check(err)
	for i, name := range []string{"xnf0-tx0", "xnf0-rx0"} {
		n, err := w.AddInterface(Interface{Name: name, Description: "ring", MAC: testMAC, SnapLen: 100, Filter: "port 53"})
		if err != nil || n != i {
			t.Fatal(n, err)
		}
	}
	check(w.Packet(&Packet{Interface: 0, Time: testTime, Length: 3, Data: []byte{1, 2, 3}, Comment: "one"}))
	check(w.Packet(&Packet{Interface: 1, Time: testTime.Add(1), Length: 200, Data: make([]byte, 100), Inbound: true, Queue: 7, Missed: 5, Comment: strings.Repeat("x", comment)}))
	check(w.Packet(&Packet{Interface: 1, Time: testTime.Add(2)}))
	check(w.Statistics(&Statistics{Interface: 1, Time: testTime, Start: testTime, Received: 9, Dropped: 2}))
	check(w.Statistics(&Statistics{Interface: 0, Time: testTime, Start: testTime, End: testTime, Received: 4, Dropped: 3, Accepted: 1, Delivered: 1}))
	check(w.Statistics(&Statistics{Interface: 1, Time: testTime, Start: testTime, End: testTime.Add(time.Second), Received: 10, Dropped: 4, Comment: "it is over"}))
	return b.Bytes()
}

func TestReaderFindsAllThatWasWritten(t *testing.T) {
	r, err := pcapgo.NewNgReader(bytes.NewReader(testStream(t, 70000)), pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	if s := r.SectionInfo(); s.Hardware != "amd64" || s.OS != "linux" || s.Application != "xnetfrontd 1" || s.Comment != "of a test" {
		t.Errorf("%+v", s)
	}
	for i, want := range []struct {
		iface, length, data int
		direction           pcapgo.NgEpbFlag
		queue               uint32
		comment             int
	}{
		{0, 3, 3, pcapgo.NgEpbFlagDirectionOutbound, 0, 3},
		{1, 200, 100, pcapgo.NgEpbFlagDirectionInbound, 7, maxOption},
		{1, 0, 0, pcapgo.NgEpbFlagDirectionOutbound, 0, 0},
	} {
		data, ci, opts, err := r.ReadPacketDataWithOptions()
		if err != nil {
			t.Fatal(err)
		}
		if ci.InterfaceIndex != want.iface || ci.Length != want.length || len(data) != want.data || !ci.Timestamp.Equal(testTime.Add(time.Duration(i))) {
			t.Errorf("packet %d: %+v with %d bytes", i, ci, len(data))
		}
		if opts.Flags.Direction != want.direction || *opts.Queue != want.queue || len(strings.Join(opts.Comments, "")) != want.comment {
			t.Errorf("packet %d: %+v of queue %d", i, opts.Flags, *opts.Queue)
		}
		if missed := opts.DropCount; (missed != nil) != (i == 1) || i == 1 && *missed != 5 {
			t.Errorf("packet %d: drop count %v", i, missed)
		}
	}
	if _, _, _, err := r.ReadPacketDataWithOptions(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	i, err := r.Interface(1)
	if err != nil || i.Name != "xnf0-rx0" || i.Description != "ring" || i.SnapLength != 100 || i.LinkType != layers.LinkTypeEthernet || i.Filter != "port 53" || i.TimestampResolution != 9 {
		t.Errorf("%+v, %v", i, err)
	}
	if s := i.Statistics; s.PacketsReceived != 10 || s.PacketsDropped != 4 || !s.EndTime.Equal(testTime.Add(time.Second)) || s.Comment != "it is over" {
		t.Errorf("%+v", s)
	}
}

func TestCounterCountsInPiecesOfAnySize(t *testing.T) {
	stream := testStream(t, 70000)
	for _, size := range []int{1, 3, 8, 1000, len(stream)} {
		var c Counter
		for b := stream; len(b) > 0; {
			n := min(size, len(b))
			if m, err := c.Write(b[:n]); m != n || err != nil {
				t.Fatal(m, err)
			}
			b = b[n:]
		}
		if c.Packets != 3 || c.Dropped() != 7 || !c.Ended || c.Why != "it is over" || !c.Whole() {
			t.Errorf("pieces of %d: %+v, %d dropped", size, c, c.Dropped())
		}
	}
}

func TestCounterKnowsAStreamThatIsCut(t *testing.T) {
	stream := testStream(t, 10)
	for cut := range len(stream) {
		var c Counter
		if _, err := c.Write(stream[:cut]); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if c.Ended && c.Why != "" {
			t.Errorf("cut at %d: ended", cut)
		}
	}
}

func FuzzCounter(f *testing.F) {
	f.Add(testStream(f, 10), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var one, many Counter
		_, err := one.Write(b)
		for rest := b; len(rest) > 0; {
			n := 1 + rnd.IntN(len(rest))
			if _, merr := many.Write(rest[:n]); merr != nil {
				if err == nil {
					t.Fatalf("in pieces: %v", merr)
				}
				return
			}
			rest = rest[n:]
		}
		if err == nil && (one.Packets != many.Packets || one.Dropped() != many.Dropped() || one.Ended != many.Ended) {
			t.Errorf("%+v and %+v", one, many)
		}
	})
}

func TestWriterDoesNotAllocateForAPacket(t *testing.T) {
	w, err := NewWriter(io.Discard, Section{})
	if err != nil {
		t.Fatal(err)
	}
	p := &Packet{Data: make([]byte, 1500), Comment: "tx queue 0"}
	if n := testing.AllocsPerRun(100, func() { w.Packet(p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
