package tap

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// segments returns copies of what Segment emits.
func segments(t testing.TB, b []byte, size int) [][]byte {
	t.Helper()
	h, err := ParseHeaders(b, len(b))
	if err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(b)
	var out [][]byte
	err = Segment(b, h, size, make([]byte, h.L4+h.L4Len+size), func(seg []byte) error {
		out = append(out, bytes.Clone(seg))
		clear(seg) // the buffer is emit's until it returns
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, before) {
		t.Fatal("the frame was changed")
	}
	return out
}

// The segments must be what the sender would have made without offload: each is
// built from scratch and compared byte by byte.
func TestSegmentMakesTheFramesOfASenderWithoutOffload(t *testing.T) {
	tag := []layers.EthernetType{customerTag}
	all := uint8(tcpFIN | tcpPSH | tcpCWR)
	cases := map[string]frame{
		"IPv4":                 {payload: filled(10000), timestamp: true, flags: all, id: 0xfffe, seq: 0xfffff000},
		"IPv6":                 {payload: filled(10000), flags: all, ipv6: true, seq: 1},
		"a whole number":       {payload: filled(4344), flags: tcpPSH},
		"one byte more":        {payload: filled(4345), flags: tcpPSH},
		"one segment":          {payload: filled(1448), flags: all},
		"no payload":           {flags: tcpFIN},
		"padding":              {payload: filled(3000), padding: filled(10)},
		"tag":                  {payload: filled(9000), tags: tag, timestamp: true, id: 7},
		"two tags":             {payload: filled(9000), tags: []layers.EthernetType{serviceTag, customerTag}, ipv6: true, flags: all},
		"IPv4 options":         {payload: filled(9000), options: noOperation, flags: all},
		"extension headers":    {payload: filled(9000), ipv6: true, chain: protoHopByHop, extension: chain(hopByHop(protoDestOpts), hopByHop(protoTCP))},
		"largest datagram":     {payload: filled(65535 - 40), flags: all},
		"largest and two tags": {payload: filled(65535 - 40), flags: all, tags: append(tag, customerTag)},
		"largest over IPv6":    {payload: filled(65535 - 20), ipv6: true, tags: tag},
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			const size = 1448
			got := segments(t, f.blank(t), size)
			for i, rest := 0, f.payload; ; i++ {
				want := f
				want.padding = nil
				want.payload = rest[:min(size, len(rest))]
				want.id, want.seq = f.id+uint16(i), f.seq+uint32(i*size)
				if i > 0 {
					want.flags &^= tcpCWR
				}
				last := len(rest) <= size
				if !last {
					want.flags &^= tcpFIN | tcpPSH
				}
				if i >= len(got) {
					t.Fatalf("only %d segments", i)
				}
				if !bytes.Equal(got[i], want.build(t)) {
					t.Fatalf("segment %d:\ngot  % x\nwant % x", i, got[i][:80], want.build(t)[:80])
				}
				verify(t, got[i])
				if last {
					if len(got) != i+1 {
						t.Fatalf("%d segments, want %d", len(got), i+1)
					}
					return
				}
				rest = rest[size:]
			}
		})
	}
}

// With a source route the pseudo-header has the final destination, which only the
// sender's own sum knows.
func TestSegmentKeepsTheAddressesOfASourceRoute(t *testing.T) {
	f := frame{payload: filled(5000), options: sourceRoute}
	for i, seg := range segments(t, f.blank(t), 1448) {
		l4 := seg[f.l4At():]
		if got := Checksum(l4, uint32(PseudoHeaderSum(ip4A, routed, protoTCP, len(l4)))); got != 0xffff {
			t.Errorf("segment %d: the receiver gets %#04x, want 0xffff", i, got)
		}
	}
}

func TestSegmentTakesAnySize(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 60 {
		f := frame{payload: randomBytes(r, 1+r.IntN(3000)), timestamp: r.IntN(2) == 0, ipv6: r.IntN(2) == 0}
		size := 1 + r.IntN(3500)
		var back []byte
		for _, seg := range segments(t, f.blank(t), size) {
			verify(t, seg)
			back = append(back, seg[f.l4At()+f.l4Header():]...)
		}
		if !bytes.Equal(back, f.payload) {
			t.Fatalf("%d bytes by %d: the payload came out as another", len(f.payload), size)
		}
	}
}

func TestSegmentStopsAtAnErrorOfEmit(t *testing.T) {
	b := frame{payload: filled(5000)}.blank(t)
	h, _ := ParseHeaders(b, len(b))
	full := errors.New("ring full")
	n := 0
	err := Segment(b, h, 1000, make([]byte, 1054), func([]byte) error {
		if n++; n == 2 {
			return full
		}
		return nil
	})
	if err != full || n != 2 {
		t.Errorf("%v after %d segments", err, n)
	}
}

func TestSegmentRefusesWhatItCannotCut(t *testing.T) {
	tcp := frame{payload: filled(5000)}
	b := tcp.blank(t)
	h, _ := ParseHeaders(b, len(b))
	u := frame{proto: udp, payload: filled(100)}.build(t)
	uh, _ := ParseHeaders(u, len(u))
	cases := map[string]struct {
		b    []byte
		h    Headers
		size int
		buf  int
		want error
	}{
		"UDP":                   {u, uh, 50, 2000, ErrNotTCP},
		"no headers":            {b, Headers{}, 1448, 2000, ErrNotTCP},
		"unparsed":              {b, Headers{L3: -1, L4: -1, Proto: protoTCP, End: len(b)}, 1448, 2000, ErrNotTCP},
		"another frame's":       {b[:100], h, 1448, 2000, ErrNotTCP},
		"size zero":             {b, h, 0, 2000, ErrNotTCP},
		"size below zero":       {b, h, -1, 2000, ErrNotTCP},
		"buffer one byte short": {b, h, 1448, 54 + 1448 - 1, ErrSegmentBuffer},
		"no buffer":             {b, h, 1448, 0, ErrSegmentBuffer},
		"frame over the buffer": {b, h, 1 << 40, 5053, ErrSegmentBuffer},
	}
	for name, c := range cases {
		err := Segment(c.b, c.h, c.size, make([]byte, c.buf), func([]byte) error {
			t.Errorf("%s: a segment came out", name)
			return nil
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := Segment(b, h, 1<<40, make([]byte, 5054), func([]byte) error { return nil }); err != nil {
		t.Errorf("a buffer for the whole frame: %v", err)
	}
}

func FuzzSegment(f *testing.F) {
	for _, k := range knownFrames {
		f.Add(k.blank(f), 3)
		f.Add(k.blank(f), 1448)
	}
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		h, err := ParseHeaders(b, len(b))
		before := bytes.Clone(b)
		var back []byte
		n := 0
		cutErr := Segment(b, h, size, make([]byte, len(b)), func(seg []byte) error {
			if n++; n > len(b) {
				t.Fatal("more segments than bytes")
			}
			sh, err := ParseHeaders(seg, len(seg))
			if err != nil || sh.L4 != h.L4 || sh.L4Len != h.L4Len || sh.End != len(seg) {
				t.Fatalf("segment %d: %+v, %v; of %+v", n, sh, err, h)
			}
			l4 := seg[h.L4:]
			if !h.NoPseudo && Checksum(l4, uint32(sh.pseudoSum(seg, len(l4)))) != 0xffff {
				t.Fatalf("segment %d: wrong TCP checksum", n)
			}
			if !h.IPv6 && Checksum(seg[h.L3:h.L4], 0) != 0xffff {
				t.Fatalf("segment %d: wrong IPv4 checksum", n)
			}
			back = append(back, l4[h.L4Len:]...)
			return nil
		})
		if !bytes.Equal(b, before) {
			t.Fatal("the frame was changed")
		}
		tcp := err == nil && h.L4 >= 0 && h.Proto == protoTCP
		if (cutErr == nil) != (tcp && size > 0) {
			t.Fatalf("%v for %+v, %v", cutErr, h, err)
		}
		if cutErr == nil && !bytes.Equal(back, b[h.L4+h.L4Len:h.End]) {
			t.Fatal("the payload came out as another")
		}
	})
}

// Headers which no ParseHeaders made must not make Segment reach outside of its
// slices.
func FuzzSegmentForeignHeaders(f *testing.F) {
	f.Add(filled(200), 14, 34, 20, 200, false, 10)
	f.Add(filled(200), -1, -1, 0, 200, true, 10)
	f.Fuzz(func(t *testing.T, b []byte, l3, l4, l4Len, end int, ipv6 bool, size int) {
		for _, noPseudo := range []bool{false, true} {
			h := Headers{L3: l3, L4: l4, L4Len: l4Len, End: end, IPv6: ipv6, Proto: protoTCP, NoPseudo: noPseudo}
			Segment(b, h, size, make([]byte, len(b)), func([]byte) error { return nil })
		}
	})
}

func BenchmarkSegment(b *testing.B) {
	buf := frame{payload: filled(64000), timestamp: true}.blank(b)
	h, _ := ParseHeaders(buf, len(buf))
	out := make([]byte, 2048)
	emit := func([]byte) error { return nil }
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Segment(buf, h, 1448, out, emit); err != nil {
			b.Fatal(err)
		}
	}
}
