package netback

import (
	"encoding/binary"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// The daemon's own idea of what netback takes with csum_blank, and this package's,
// were written apart from each other. Where the daemon says yes netback must agree,
// or frames are lost in silence.
func FuzzChecksumSetupTakesWhatTheFrontendOffloads(f *testing.F) {
	for _, family := range []int{4, 6} {
		for _, proto := range []uint8{protoTCP, protoUDP} {
			f.Add(packet(family, proto, 20))
			f.Add(packet(family, proto, 20, 0x8100))
		}
	}
	for _, ext := range [][]byte{{protoTCP, 1}, {protoDstOpts, 0}, {protoUDP, 30}} {
		for _, typ := range []byte{protoHopOpts, protoRouting, protoDstOpts, protoFragment, protoAuth} {
			b := packet(6, protoTCP, 400)
			binary.BigEndian.PutUint16(b[18:], uint16(len(b)-54))
			b[20] = typ
			copy(b[54:], ext)
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, drop := checksumSetup(b, len(b))
		if drop == 0 && (l.need > len(b) || l.start+l.field+2 > len(b)) {
			t.Fatalf("checksum outside of %d bytes: %+v", len(b), l)
		}
		if drop == 0 {
			l.pseudoHeaderSum(b, len(b)) // must not fail
		}
		// With only a part of the head the answer is the same, or asks for more.
		if part := min(len(b), 60); part < len(b) {
			lp, dp := checksumSetup(b[:part], len(b))
			if dp != 0 && dp != drop || dp == 0 && lp.need <= part && lp != l {
				t.Fatalf("with %d of %d bytes: %+v, %v; with all: %+v, %v", part, len(b), lp, dp, l, drop)
			}
		}
		h, err := tap.ParseHeaders(b, len(b))
		if err != nil || !h.CanOffload() || h.End != len(b) {
			return
		}
		if drop != 0 || l.start != h.L4 || l.ipv6 != h.IPv6 {
			t.Fatalf("the frontend offloads %+v; netback: %v, %+v", h, drop, l)
		}
	})
}
