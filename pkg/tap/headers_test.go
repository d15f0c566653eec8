package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

const (
	customerTag = layers.EthernetTypeDot1Q
	serviceTag  = layers.EthernetTypeQinQ
	udp         = layers.IPProtocolUDP
)

// The frames whose headers are all known.
var knownFrames = map[string]frame{
	"TCP over IPv4":                  {timestamp: true, payload: filled(100)},
	"empty TCP":                      {},
	"UDP over IPv4":                  {proto: udp, payload: filled(33)},
	"empty UDP":                      {proto: udp},
	"IPv4 options":                   {options: sourceRoute, payload: filled(8)},
	"TCP over IPv6":                  {ipv6: true, timestamp: true, payload: filled(1000)},
	"UDP over IPv6":                  {ipv6: true, proto: udp, payload: filled(1)},
	"one tag":                        {tags: []layers.EthernetType{customerTag}, payload: filled(40)},
	"service tag":                    {tags: []layers.EthernetType{serviceTag, customerTag}, ipv6: true, payload: filled(40)},
	"three tags":                     {tags: []layers.EthernetType{serviceTag, customerTag, customerTag}, proto: udp, payload: filled(40)},
	"padding":                        {payload: filled(1), padding: []byte{1, 2, 3, 4, 5}},
	"IPv6 with padding":              {ipv6: true, proto: udp, payload: filled(3), padding: make([]byte, 9)},
	"hop-by-hop":                     {ipv6: true, chain: protoHopByHop, extension: hopByHop(protoTCP), payload: filled(5)},
	"routing":                        {ipv6: true, chain: protoRouting, extension: routing(protoTCP), payload: filled(5)},
	"authentication":                 {ipv6: true, chain: protoAH, extension: authHeader(protoTCP), payload: filled(5)},
	"whole datagram as one fragment": {ipv6: true, chain: protoFragment, extension: fragmentHeader(protoUDP, 0), proto: udp, payload: filled(5)},
	"all extensions": {
		ipv6: true, chain: protoHopByHop, proto: udp, payload: filled(5),
		extension: chain(hopByHop(protoDestOpts), hopByHop(protoRouting), routing(protoFragment), fragmentHeader(protoAH, 0), authHeader(protoDestOpts), hopByHop(protoUDP)),
	},
}

func TestParseHeadersFindsEveryHeader(t *testing.T) {
	for name, f := range knownFrames {
		t.Run(name, func(t *testing.T) {
			b := f.build(t)
			got, err := ParseHeaders(b, len(b))
			if err != nil {
				t.Fatal(err)
			}
			want := Headers{
				EtherType: etherIPv4, VLANs: len(f.tags), L3: EthernetHeader + 4*len(f.tags),
				L4: f.l4At(), L4Len: f.l4Header(), End: len(b) - len(f.padding), Proto: protoTCP, IPv6: f.ipv6,
			}
			if f.ipv6 {
				want.EtherType = etherIPv6
			}
			if f.proto == udp {
				want.Proto = protoUDP
			}
			want.NoPseudo = f.options != nil || name == "routing" || name == "all extensions"
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// A caller copies little at first. Whatever is missing must be asked for, step by
// step if need be, and never more than MaxHeaders bytes.
func TestParseHeadersAsksForTheBytesItNeeds(t *testing.T) {
	for name, f := range knownFrames {
		t.Run(name, func(t *testing.T) {
			b := f.build(t)
			want, _ := ParseHeaders(b, len(b))
			for n := range len(b) {
				got, err := ParseHeaders(b[:n], len(b))
				if err == nil {
					if got != want {
						t.Fatalf("%d bytes: got %+v, want %+v", n, got, want)
					}
					continue
				}
				if !errors.Is(err, ErrTruncated) {
					t.Fatalf("%d bytes: %v", n, err)
				}
				if got.Need <= n || got.Need > want.L4+want.L4Len || got.Need > MaxHeaders {
					t.Fatalf("%d bytes: needs %d, headers are %d", n, got.Need, want.L4+want.L4Len)
				}
				if got.L4 != -1 || got.CanOffload() {
					t.Fatalf("%d bytes: L4 claimed in spite of the error: %+v", n, got)
				}
			}
		})
	}
}

func TestParseHeadersNeedsNoPayload(t *testing.T) {
	for name, f := range knownFrames {
		b := f.build(t)
		if _, err := ParseHeaders(b[:f.l4At()+f.l4Header()], len(b)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseHeadersLeavesWhatItDoesNotKnow(t *testing.T) {
	ether := func(types ...uint16) []byte {
		b := append(bytes.Clone(macB), macA...)
		for i, v := range types {
			b = binary.BigEndian.AppendUint16(b, v)
			if i < len(types)-1 {
				b = append(b, 0, 7)
			}
		}
		return append(b, filled(46)...)
	}
	long := make([]byte, 264)
	long[0], long[1] = protoTCP, 32
	cases := map[string]struct {
		b     []byte
		l3    bool
		l4    bool
		proto uint8
	}{
		"ARP":                  {b: ether(0x0806)},
		"802.3 length":         {b: ether(46)},
		"four tags":            {b: ether(0x88a8, 0x8100, 0x8100, 0x8100, 0x0800)},
		"ICMP":                 {b: frame{proto: layers.IPProtocolICMPv4, payload: filled(64)}.build(t), l3: true, l4: true, proto: 1},
		"first fragment":       {b: frame{more: true, payload: filled(64)}.build(t), l3: true, proto: protoTCP},
		"later fragment":       {b: frame{fragment: 8, payload: filled(64)}.build(t), l3: true, proto: protoTCP},
		"IPv6 first fragment":  {b: frame{ipv6: true, chain: protoFragment, extension: fragmentHeader(protoTCP, 1)}.build(t), l3: true, proto: protoTCP},
		"IPv6 later fragment":  {b: frame{ipv6: true, chain: protoFragment, extension: fragmentHeader(protoUDP, 0x80)}.build(t), l3: true, proto: protoUDP},
		"nothing behind IPv6":  {b: frame{ipv6: true, chain: protoHopByHop, extension: hopByHop(protoNone)}.build(t), l3: true, proto: protoNone},
		"encrypted":            {b: frame{ipv6: true, chain: 50, extension: filled(32)}.build(t), l3: true, l4: true, proto: 50},
		"chain over 256 bytes": {b: frame{ipv6: true, chain: protoDestOpts, extension: long}.build(t), l3: true, proto: protoTCP},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h, err := ParseHeaders(c.b, len(c.b))
			if err != nil {
				t.Fatal(err)
			}
			if (h.L3 >= 0) != c.l3 || (h.L4 >= 0) != c.l4 || h.Proto != c.proto || h.L4Len != 0 {
				t.Errorf("got %+v", h)
			}
			if h.CanOffload() {
				t.Error("netback would drop this frame after OKAY")
			}
		})
	}
}

func TestParseHeadersRefusesHeadersThatContradictTheFrame(t *testing.T) {
	at := func(f frame, i int, v ...byte) []byte {
		b := f.build(t)
		copy(b[i:], v)
		return b
	}
	tcp4, tcp6 := frame{payload: filled(10)}, frame{ipv6: true, payload: filled(10)}
	udp4 := frame{proto: udp, payload: filled(10)}
	cases := map[string][]byte{
		"no Ethernet header":          filled(13),
		"tag without a type":          append(append(filled(12), 0x81, 0x00), 0, 1),
		"half an IPv4 header":         tcp4.build(t)[:30],
		"IPv4 version":                at(tcp4, 14, 0x65),
		"IPv4 header under 20 bytes":  at(tcp4, 14, 0x44),
		"IPv4 total under the header": at(tcp4, 16, 0, 19),
		"IPv4 total over the frame":   at(tcp4, 16, 0, 51),
		"IPv4 total of zero":          at(tcp4, 16, 0, 0),
		"IPv4 header over the total":  at(tcp4, 14, 0x4f),
		"half an IPv6 header":         tcp6.build(t)[:50],
		"IPv6 version":                at(tcp6, 14, 0x40),
		"IPv6 length over the frame":  at(tcp6, 18, 0, 31),
		"extension over the datagram": frame{ipv6: true, chain: protoHopByHop, extension: []byte{protoTCP, 3, 0, 0, 0, 0, 0, 0}}.build(t),
		"extension cut off":           frame{ipv6: true, chain: protoHopByHop, extension: hopByHop(protoRouting)}.build(t)[:62],
		"TCP header under 20 bytes":   at(tcp4, 46, 0x40),
		"TCP header over the data":    at(tcp4, 46, 0xf0),
		"TCP behind the IPv4 total":   at(tcp4, 16, 0, 39),
		"UDP length under 8":          at(udp4, 38, 0, 7),
		"UDP length over the data":    at(udp4, 38, 0, 19),
		"UDP length of zero":          at(udp4, 38, 0, 0),
	}
	for name, b := range cases {
		h, err := ParseHeaders(b, len(b))
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %+v", name, err, h)
		}
		if h.L4 != -1 || h.CanOffload() || h.End > len(b) {
			t.Errorf("%s: claimed in spite of the error: %+v", name, h)
		}
	}
}

func TestParseHeadersIgnoresBytesBehindTheFrame(t *testing.T) {
	b := frame{payload: filled(10)}.build(t)
	if _, err := ParseHeaders(b, len(b)-1); !errors.Is(err, ErrMalformed) {
		t.Errorf("a datagram that ends behind the frame: %v", err)
	}
	for _, n := range []int{0, -1, -1 << 62} {
		if _, err := ParseHeaders(b, n); !errors.Is(err, ErrMalformed) {
			t.Errorf("frame of %d bytes: %v", n, err)
		}
	}
}

// Trailing bytes within the datagram but behind UDP are in no checksum, so a sum to
// the datagram's end is not UDP's.
func TestParseHeadersDoubtsUDPShorterThanIP(t *testing.T) {
	f := frame{proto: udp, payload: filled(10)}
	b := f.build(t)
	b[f.l4At()+5] -= 4
	h, err := ParseHeaders(b, len(b))
	if err != nil || !h.NoPseudo {
		t.Errorf("%+v, %v; want NoPseudo", h, err)
	}
}

// What netback takes with csum_blank, after skb_checksum_setup.
func TestCanOffloadIsWhatNetbackAccepts(t *testing.T) {
	for name, f := range knownFrames {
		b := f.build(t)
		h, err := ParseHeaders(b, len(b))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := h.CanOffload(), len(f.tags) == 0; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func FuzzParseHeaders(f *testing.F) {
	for _, k := range knownFrames {
		b := k.build(f)
		f.Add(b, len(b))
		f.Add(b[:min(len(b), 40)], len(b))
	}
	f.Fuzz(func(t *testing.T, b []byte, frameLen int) {
		before := bytes.Clone(b)
		h, err := ParseHeaders(b, frameLen)
		if !bytes.Equal(b, before) {
			t.Fatal("the frame was changed")
		}
		if errors.Is(err, ErrTruncated) && (h.Need <= len(b) || h.Need > min(frameLen, MaxHeaders)) {
			t.Fatalf("%d bytes of %d: needs %d", len(b), frameLen, h.Need)
		}
		if err != nil && (h.L4 != -1 || h.CanOffload()) {
			t.Fatalf("claimed in spite of %v: %+v", err, h)
		}
		if h.End > frameLen {
			t.Fatalf("datagram ends at %d of %d", h.End, frameLen)
		}
		if err == nil && h.L4 >= 0 {
			least := h.L3 + ipv4Header
			if h.IPv6 {
				least = h.L3 + ipv6Header
			}
			if h.L3 < EthernetHeader || h.L4 < least || h.L4+h.L4Len > min(h.End, len(b), MaxHeaders) && h.L4Len > 0 {
				t.Fatalf("headers out of order: %+v in %d of %d", h, len(b), frameLen)
			}
		}
		if offset, ok := h.csumOffset(); ok && h.L4+offset+2 > min(h.End, len(b)) {
			t.Fatalf("checksum outside of the datagram: %+v", h)
		}
		// More of the same frame changes nothing.
		if err == nil {
			if again, err := ParseHeaders(append(before, 1, 2, 3), frameLen); err != nil || again != h {
				t.Fatalf("with more bytes: %+v, %v; before %+v", again, err, h)
			}
		}
	})
}

func BenchmarkParseHeaders(b *testing.B) {
	for _, name := range []string{"TCP over IPv4", "TCP over IPv6"} {
		b.Run(name, func(b *testing.B) {
			buf := knownFrames[name].build(b)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseHeaders(buf, len(buf)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
