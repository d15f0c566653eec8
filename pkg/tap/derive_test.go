package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

var everything = TxFeatures{CsumIPv4: true, CsumIPv6: true, GSOTCPv4: true, GSOTCPv6: true}

// overlay returns b with head in front, as it is written to the TAP.
func overlay(head, b []byte) []byte {
	return append(bytes.Clone(head), b[len(head):]...)
}

func TestDeriveRxPointsAtTheChecksumOfABlankFrame(t *testing.T) {
	for name, f := range knownFrames {
		t.Run(name, func(t *testing.T) {
			b := f.blank(t)
			head := bytes.Clone(b[:min(len(b), MaxHeaders)])
			v, did, err := DeriveRx(head, len(b), RxOffload{CsumBlank: true, DataValidated: true})
			if err != nil || did != 0 {
				t.Fatalf("did %#x, %v", did, err)
			}
			want := VirtioHeader{
				Flags: VirtioNeedsCsum, HdrLen: uint16(f.l4At() + f.l4Header()),
				CsumStart: uint16(f.l4At()), CsumOffset: uint16(f.fieldAt() - f.l4At()),
			}
			if v != want {
				t.Errorf("got  %+v\nwant %+v", v, want)
			}
			if !bytes.Equal(head, b[:len(head)]) {
				t.Error("a correct head was changed")
			}
			// What the kernel then computes is what the sender would have.
			end := len(b) - len(f.padding)
			if err := FinishChecksum(b[:end], int(v.CsumStart), int(v.CsumOffset)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, f.build(t)) {
				t.Error("finished, the frame is not the one with a complete checksum")
			}
		})
	}
}

// A wrong sum in the field would be a frame with a wrong checksum.
func TestDeriveRxWritesThePseudoHeaderSumAnew(t *testing.T) {
	for name, f := range knownFrames {
		b := f.blank(t)
		want := bytes.Clone(b)
		binary.BigEndian.PutUint16(b[f.fieldAt():], 0xdead)
		h, err := ParseHeaders(b, len(b))
		if err != nil {
			t.Fatal(err)
		}
		if h.NoPseudo { // a route or a home address may stand behind it: leave it
			want = bytes.Clone(b)
		}
		if _, _, err := DeriveRx(b, len(b), RxOffload{CsumBlank: true}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%s: field is %#04x, want %#04x", name, b[f.fieldAt():f.fieldAt()+2], want[f.fieldAt():f.fieldAt()+2])
		}
	}
}

func TestDeriveRxAsksForALongerHead(t *testing.T) {
	f := knownFrames["all extensions"]
	b := f.blank(t)
	in := RxOffload{CsumBlank: true}
	before := bytes.Clone(b)
	if v, _, err := DeriveRx(b[:HeadSize], len(b), in); !errors.Is(err, ErrTruncated) || v != (VirtioHeader{}) {
		t.Fatalf("%+v, %v; want ErrTruncated", v, err)
	}
	if !bytes.Equal(b, before) {
		t.Fatal("the head was changed in spite of the error")
	}
	if _, _, err := DeriveRx(b[:min(len(b), MaxHeaders)], len(b), in); err != nil {
		t.Fatal(err)
	}
}

func TestDeriveRxDropsABlankFrameWithoutChecksum(t *testing.T) {
	arp := append(append(bytes.Clone(macB), macA...), 8, 6)
	cases := map[string]struct {
		b    []byte
		want error
	}{
		"ARP":            {append(arp, filled(46)...), ErrNoChecksum},
		"ICMP":           {frame{proto: layers.IPProtocolICMPv4, payload: filled(64)}.build(t), ErrNoChecksum},
		"first fragment": {frame{more: true, payload: filled(64)}.build(t), ErrNoChecksum},
		"later fragment": {frame{fragment: 8, payload: filled(64)}.build(t), ErrNoChecksum},
		"IPv6 fragment":  {frame{ipv6: true, chain: protoFragment, extension: fragmentHeader(protoTCP, 1)}.build(t), ErrNoChecksum},
		"cut TCP header": {frame{}.build(t)[:50], ErrMalformed},
		"no frame":       {filled(13), ErrMalformed},
	}
	for name, c := range cases {
		for _, in := range []RxOffload{{CsumBlank: true}, {GSOType: GSOTCPv4, GSOSize: 1448}} {
			v, did, err := DeriveRx(c.b, len(c.b), in)
			if !errors.Is(err, c.want) || v != (VirtioHeader{}) || did != 0 {
				t.Errorf("%s: %+v, %#x, %v; want %v", name, v, did, err, c.want)
			}
		}
	}
}

func TestDeriveRxDoesNotLookAtAFrameWithNothingPending(t *testing.T) {
	f := frame{payload: filled(1000)}
	for name, b := range map[string][]byte{"TCP": f.build(t), "junk": filled(300), "smallest": filled(14)} {
		before := bytes.Clone(b)
		v, did, err := DeriveRx(b, len(b), RxOffload{})
		if v != (VirtioHeader{}) || did != 0 || err != nil || !bytes.Equal(b, before) {
			t.Errorf("%s: %+v, %#x, %v", name, v, did, err)
		}
	}
	if _, _, err := DeriveRx(filled(13), 13, RxOffload{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("13 bytes, which a TAP refuses: %v", err)
	}
}

func TestDeriveRxSparesTheGuestASumTheBackendVouchesFor(t *testing.T) {
	in := RxOffload{DataValidated: true}
	for _, f := range []frame{
		{payload: filled(1448), timestamp: true},
		{payload: filled(600), proto: udp, ipv6: true},
		{payload: filled(600), tags: []layers.EthernetType{customerTag}},
		{payload: filled(600), ipv6: true, chain: protoHopByHop, extension: hopByHop(protoTCP)},
	} {
		b := f.build(t)
		head := bytes.Clone(b[:HeadSize])
		v, did, err := DeriveRx(head, len(b), in)
		if err != nil || did != RxSumReplaced || v.Flags != VirtioNeedsCsum || int(v.CsumStart) != f.l4At() {
			t.Errorf("%+v: %+v, %#x, %v", f.tags, v, did, err)
		}
		if !bytes.Equal(overlay(head, b), f.blank(t)) {
			t.Error("the field is not the pseudo-header's sum")
		}
	}
}

// None of these may be touched, and none may be dropped.
func TestDeriveRxLeavesADoubtfulValidatedFrameToTheGuest(t *testing.T) {
	noSum := frame{proto: udp, payload: filled(700)}
	zero := noSum.build(t)
	zero[noSum.fieldAt()], zero[noSum.fieldAt()+1] = 0, 0
	cases := map[string][]byte{
		"too small to be worth it": frame{payload: filled(minValidated - 54 - 1)}.build(t),
		"UDP without checksum":     zero,
		"source route":             frame{options: sourceRoute, payload: filled(700)}.build(t),
		"routing header":           frame{ipv6: true, chain: protoRouting, extension: routing(protoTCP), payload: filled(700)}.build(t),
		"padding":                  frame{payload: filled(600), padding: filled(6)}.build(t),
		"fragment":                 frame{more: true, payload: filled(700)}.build(t),
		"ICMP":                     frame{proto: layers.IPProtocolICMPv4, payload: filled(700)}.build(t),
		"malformed":                frame{payload: filled(700)}.build(t)[:700],
		"junk":                     filled(700),
	}
	for name, b := range cases {
		before := bytes.Clone(b)
		v, did, err := DeriveRx(b[:min(len(b), HeadSize)], len(b), RxOffload{DataValidated: true})
		if v != (VirtioHeader{}) || did != 0 || err != nil || !bytes.Equal(b, before) {
			t.Errorf("%s: %+v, %#x, %v", name, v, did, err)
		}
	}
}

func TestDeriveRxAddsTheSegmentationThatFits(t *testing.T) {
	for name, f := range map[string]frame{
		"IPv4": {payload: filled(5000), timestamp: true},
		"IPv6": {payload: filled(5000), ipv6: true},
		"tag":  {payload: filled(5000), tags: []layers.EthernetType{customerTag}},
		"hop":  {payload: filled(5000), ipv6: true, chain: protoHopByHop, extension: hopByHop(protoTCP)},
	} {
		b := f.blank(t)
		head := bytes.Clone(b[:HeadSize])
		in := RxOffload{CsumBlank: true, GSOSize: 1448, GSOType: GSOTCPv4}
		if f.ipv6 {
			in.GSOType = GSOTCPv6
		}
		v, did, err := DeriveRx(head, len(b), in)
		want := VirtioHeader{
			Flags: VirtioNeedsCsum, GSOType: in.GSOType, GSOSize: 1448, HdrLen: uint16(f.l4At() + f.l4Header()),
			CsumStart: uint16(f.l4At()), CsumOffset: tcpChecksum,
		}
		if v != want || did != 0 || err != nil || !bytes.Equal(head, b[:HeadSize]) {
			t.Errorf("%s: %+v, %#x, %v", name, v, did, err)
		}
	}
}

// Linux netfront does the same for backends that forget csum_blank, and counts it.
func TestDeriveRxForcesTheChecksumOfSegmentation(t *testing.T) {
	for _, f := range []frame{
		{payload: filled(5000)},
		{payload: filled(5000), options: noOperation},
	} {
		b := f.build(t) // a complete checksum, or rather none that fits the segments
		v, did, err := DeriveRx(b, len(b), RxOffload{GSOSize: 1448, GSOType: GSOTCPv4})
		if err != nil || did != RxGSOFixup || v.Flags != VirtioNeedsCsum || v.GSOType != GSOTCPv4 {
			t.Errorf("%+v, %#x, %v", v, did, err)
		}
		if !bytes.Equal(b, f.blank(t)) {
			t.Error("the field is not the pseudo-header's sum")
		}
	}
}

// The kernel copies the header's checksum into each segment's; senders that leave it
// to their card would get nothing through.
func TestDeriveRxRepairsTheIPv4ChecksumOfSegmentation(t *testing.T) {
	f := frame{payload: filled(5000), options: noOperation}
	b := f.blank(t)
	want := bytes.Clone(b)
	b[24], b[25] = 0, 0
	_, did, err := DeriveRx(b, len(b), RxOffload{CsumBlank: true, GSOSize: 1448, GSOType: GSOTCPv4})
	if err != nil || did != RxIPSumRepaired || !bytes.Equal(b, want) {
		t.Errorf("%#x, %v, checksum % x; want % x", did, err, b[24:26], want[24:26])
	}
}

func TestDeriveRxClearsSegmentationThatCutsNothing(t *testing.T) {
	for _, size := range []uint16{1000, 1001, 0xffff} {
		f := frame{payload: filled(1000)}
		b := f.blank(t)
		v, did, err := DeriveRx(b, len(b), RxOffload{CsumBlank: true, GSOSize: size, GSOType: GSOTCPv4})
		if err != nil || did != RxGSOCleared || v.Flags != VirtioNeedsCsum || v.GSOType != GSONone || v.GSOSize != 0 {
			t.Errorf("size %d: %+v, %#x, %v", size, v, did, err)
		}
	}
}

func TestDeriveRxDropsSegmentationThatDoesNotFit(t *testing.T) {
	tcp4, tcp6 := frame{payload: filled(5000)}, frame{payload: filled(5000), ipv6: true}
	udp4 := frame{payload: filled(5000), proto: udp}
	padded := frame{payload: filled(5000), padding: filled(4)}
	cases := map[string]struct {
		f    frame
		typ  uint8
		size uint16
	}{
		"IPv6 type on IPv4":   {tcp4, GSOTCPv6, 1448},
		"IPv4 type on IPv6":   {tcp6, GSOTCPv4, 1448},
		"Xen's number of v6":  {tcp6, 2, 1448},
		"UDP":                 {udp4, GSOTCPv4, 1448},
		"UDP type":            {udp4, GSOUDPL4, 1448},
		"unknown type":        {tcp4, 7, 1448},
		"ECN flag":            {tcp4, GSOTCPv4 | GSOECN, 1448},
		"size zero":           {tcp4, GSOTCPv4, 0},
		"size under any MSS":  {tcp4, GSOTCPv4, minGSOSize - 1},
		"padding for payload": {padded, GSOTCPv4, 1448},
	}
	for name, c := range cases {
		for _, blank := range []bool{false, true} {
			b := c.f.blank(t)
			v, did, err := DeriveRx(b, len(b), RxOffload{CsumBlank: blank, GSOSize: c.size, GSOType: c.typ})
			if !errors.Is(err, ErrGSO) || v != (VirtioHeader{}) || did != 0 {
				t.Errorf("%s: %+v, %#x, %v", name, v, did, err)
			}
		}
	}
}

// checkPlan carries p out and checks that it may be what it says.
func checkPlan(t *testing.T, p TxPlan, v VirtioHeader, h Headers, b []byte) {
	t.Helper()
	if p.CsumBlank && (p.Action != TxSend || !h.CanOffload() || !p.DataValidated || int(v.CsumStart) != h.L4) {
		t.Fatalf("netback would drop it: %+v for %+v, %+v", p, v, h)
	}
	if p.GSOType != GSONone && (!p.CsumBlank || p.GSOSize == 0 || len(b) > MaxRingFrame) {
		t.Fatalf("GSO extra that netback does not take: %+v", p)
	}
	switch p.Action {
	case TxSend:
		if v.Flags&VirtioNeedsCsum != 0 && !p.CsumBlank {
			t.Fatalf("sent unfinished: %+v for %+v", p, v)
		}
	case TxFinish:
		if p.End > len(b) || p.CsumBlank || p.GSOType != GSONone {
			t.Fatalf("%+v", p)
		}
		if err := FinishChecksum(bytes.Clone(b[:p.End]), p.Start, p.Offset); err != nil {
			t.Fatalf("%+v of %d bytes: %v", p, len(b), err)
		}
	case TxSegment:
		n := 0
		err := Segment(b, h, int(p.GSOSize), make([]byte, len(b)), func([]byte) error { n++; return nil })
		if err != nil || n < 2 || p.CsumBlank || p.GSOType != GSONone {
			t.Fatalf("%+v: %d segments, %v", p, n, err)
		}
	}
}

func TestCheckTxSendsWhatNetbackTakesAndFinishesTheRest(t *testing.T) {
	for name, f := range knownFrames {
		b := f.blank(t)
		h, err := ParseHeaders(b, len(b))
		if err != nil {
			t.Fatal(err)
		}
		v := VirtioHeader{Flags: VirtioNeedsCsum, CsumStart: uint16(f.l4At()), CsumOffset: uint16(f.fieldAt() - f.l4At())}
		p, err := CheckTx(v, h, len(b), everything)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := TxPlan{CsumBlank: true, DataValidated: true}
		if len(f.tags) > 0 || f.padding != nil {
			want = TxPlan{Action: TxFinish, DataValidated: true, Start: f.l4At(), Offset: f.fieldAt() - f.l4At(), End: len(b) - len(f.padding)}
		}
		if p != want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, p, want)
		}
		checkPlan(t, p, v, h, b)
		if p.Action == TxFinish {
			if err := FinishChecksum(b[:p.End], p.Start, p.Offset); err != nil || !bytes.Equal(b, f.build(t)) {
				t.Errorf("%s: finished, the checksum is wrong (%v)", name, err)
			}
		}
	}
}

func TestCheckTxFollowsTheBackendsFeatures(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		f := frame{payload: filled(5000), ipv6: ipv6}
		b := f.blank(t)
		h, _ := ParseHeaders(b, len(b))
		csum := VirtioHeader{Flags: VirtioNeedsCsum, CsumStart: uint16(f.l4At()), CsumOffset: tcpChecksum}
		gso := csum
		gso.GSOType, gso.GSOSize = h.gsoType(), 1448
		for bits := range uint8(16) {
			can := TxFeatures{bits&1 != 0, bits&2 != 0, bits&4 != 0, bits&8 != 0}
			hasCsum, hasGSO := bits&1 != 0, bits&4 != 0
			if ipv6 {
				hasCsum, hasGSO = bits&2 != 0, bits&8 != 0
			}
			p, err := CheckTx(csum, h, len(b), can)
			if err != nil || (p.Action == TxSend) != hasCsum || (p.Action == TxFinish) == hasCsum {
				t.Errorf("checksum with %+v: %+v, %v", can, p, err)
			}
			checkPlan(t, p, csum, h, b)
			p, err = CheckTx(gso, h, len(b), can)
			want := TxPlan{Action: TxSegment, DataValidated: true, GSOSize: 1448}
			if hasCsum && hasGSO {
				want = TxPlan{CsumBlank: true, DataValidated: true, GSOType: gso.GSOType, GSOSize: 1448}
			}
			if err != nil || p != want {
				t.Errorf("GSO with %+v: %+v, %v", can, p, err)
			}
			checkPlan(t, p, gso, h, b)
		}
	}
}

func TestCheckTxSegmentsWhatTheRingCannotTake(t *testing.T) {
	tag := []layers.EthernetType{customerTag}
	cases := map[string]struct {
		f   frame
		typ uint8
	}{
		"tag":                       {frame{payload: filled(5000), tags: tag}, GSOTCPv4},
		"IPv6 tag":                  {frame{payload: filled(5000), tags: tag, ipv6: true}, GSOTCPv6},
		"ECN":                       {frame{payload: filled(5000), flags: tcpCWR}, GSOTCPv4 | GSOECN},
		"one byte too long":         {frame{payload: filled(MaxRingFrame - 54 + 1)}, GSOTCPv6},
		"padding":                   {frame{payload: filled(5000), padding: filled(4)}, GSOTCPv4},
		"largest datagram and tags": {frame{payload: filled(65535 - 40), tags: append(tag, customerTag)}, GSOTCPv4},
	}
	c := cases["one byte too long"]
	c.f.payload, c.f.ipv6 = filled(MaxRingFrame-74+1), true
	cases["one byte too long"] = c
	for name, c := range cases {
		b := c.f.blank(t)
		h, err := ParseHeaders(b, len(b))
		if err != nil {
			t.Fatal(err)
		}
		v := VirtioHeader{Flags: VirtioNeedsCsum, GSOType: c.typ, GSOSize: 1448, CsumStart: uint16(c.f.l4At()), CsumOffset: tcpChecksum}
		p, err := CheckTx(v, h, len(b), everything)
		if err != nil || p.Action != TxSegment {
			t.Errorf("%s: %+v, %v", name, p, err)
			continue
		}
		checkPlan(t, p, v, h, b)
	}
}

// The kernel finishes these for devices that cannot; a TAP with checksum offload can
// be given them all the same, by a bridge or a tunnel. csum_blank would be a frame
// dropped behind an OKAY.
func TestCheckTxFinishesAChecksumNetbackWouldNotFind(t *testing.T) {
	tunnel := frame{proto: udp, payload: append(filled(8), frame{payload: filled(100)}.build(t)...)}
	inner := tunnel.l4At() + udpHeader + 8 + EthernetHeader + ipv4Header
	icmp := frame{ipv6: true, proto: layers.IPProtocolICMPv6, payload: filled(64)}
	cases := map[string]struct {
		b             []byte
		start, offset int
		end           int
	}{
		"inner TCP of a UDP tunnel": {tunnel.build(t), inner, tcpChecksum, -1},
		"ICMPv6":                    {icmp.build(t), 54, 2, -1},
		"not IP":                    {append(append(append(bytes.Clone(macB), macA...), 0x12, 0x34), filled(60)...), 20, 4, -1},
		"malformed IP":              {frame{payload: filled(64)}.build(t)[:80], 34, tcpChecksum, -1},
		"another field":             {frame{payload: filled(64)}.build(t), 34, udpChecksum, -1},
		"field in the padding":      {frame{payload: filled(2), padding: filled(9)}.build(t), 56, 3, -1},
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		h, _ := ParseHeaders(c.b, len(c.b))
		v := VirtioHeader{Flags: VirtioNeedsCsum, CsumStart: uint16(c.start), CsumOffset: uint16(c.offset)}
		p, err := CheckTx(v, h, len(c.b), everything)
		want := TxPlan{Action: TxFinish, Start: c.start, Offset: c.offset, End: len(c.b)}
		if err != nil || p != want {
			t.Errorf("%s: %+v, %v; want %+v", name, p, err, want)
		}
		checkPlan(t, p, v, h, c.b)
	}
}

func TestCheckTxPassesFinishedFrames(t *testing.T) {
	for flags, want := range map[uint8]TxPlan{0: {}, VirtioDataValid: {DataValidated: true}} {
		p, err := CheckTx(VirtioHeader{Flags: flags}, Headers{}, 60, TxFeatures{})
		if err != nil || p != want {
			t.Errorf("flags %d: %+v, %v", flags, p, err)
		}
	}
	// Segmentation that cuts nothing is none.
	f := frame{payload: filled(100)}
	b := f.blank(t)
	h, _ := ParseHeaders(b, len(b))
	v := VirtioHeader{Flags: VirtioNeedsCsum, GSOType: GSOTCPv4, GSOSize: 100, CsumStart: uint16(f.l4At()), CsumOffset: tcpChecksum}
	if p, err := CheckTx(v, h, len(b), everything); err != nil || p != (TxPlan{CsumBlank: true, DataValidated: true}) {
		t.Errorf("GSO of one segment: %+v, %v", p, err)
	}
}

func TestCheckTxRefusesAHeaderThatContradictsItsFrame(t *testing.T) {
	tcp := frame{payload: filled(5000)}
	good := VirtioHeader{Flags: VirtioNeedsCsum, GSOType: GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: tcpChecksum}
	cases := map[string]struct {
		f      frame
		change func(v *VirtioHeader)
	}{
		"checksum behind the frame":  {tcp, func(v *VirtioHeader) { v.GSOType, v.CsumStart = 0, 5039 }},
		"offset behind the frame":    {tcp, func(v *VirtioHeader) { v.GSOType, v.CsumOffset = 0, 0xffff }},
		"UDP fragmentation":          {frame{proto: udp, payload: filled(5000)}, func(v *VirtioHeader) { v.GSOType, v.CsumOffset = GSOUDP, udpChecksum }},
		"UDP segmentation":           {frame{proto: udp, payload: filled(5000)}, func(v *VirtioHeader) { v.GSOType, v.CsumOffset = GSOUDPL4, udpChecksum }},
		"TCP segmentation of UDP":    {frame{proto: udp, payload: filled(5000)}, func(v *VirtioHeader) { v.CsumOffset = udpChecksum }},
		"other IP version":           {tcp, func(v *VirtioHeader) { v.GSOType = GSOTCPv6 }},
		"unknown type":               {tcp, func(v *VirtioHeader) { v.GSOType = 0x20 }},
		"ECN alone":                  {tcp, func(v *VirtioHeader) { v.GSOType = GSOECN }},
		"size zero":                  {tcp, func(v *VirtioHeader) { v.GSOSize = 0 }},
		"another checksum with GSO":  {tcp, func(v *VirtioHeader) { v.CsumStart = 54 }},
		"another field with GSO":     {tcp, func(v *VirtioHeader) { v.CsumOffset = udpChecksum }},
		"segmentation of a fragment": {frame{more: true, payload: filled(5000)}, func(*VirtioHeader) {}},
	}
	for name, c := range cases {
		b := c.f.build(t)
		h, err := ParseHeaders(b, len(b))
		if err != nil {
			t.Fatal(err)
		}
		v := good
		c.change(&v)
		if p, err := CheckTx(v, h, len(b), everything); !errors.Is(err, ErrVirtioHeader) || p != (TxPlan{}) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func TestHeadersAndPlansDoNotAllocate(t *testing.T) {
	f := frame{payload: filled(5000), timestamp: true}
	b := f.blank(t)
	h, _ := ParseHeaders(b, len(b))
	v := VirtioHeader{Flags: VirtioNeedsCsum, GSOType: GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: tcpChecksum}
	buf := make([]byte, 2000)
	emit := func([]byte) error { return nil }
	for name, do := range map[string]func(){
		"DeriveRx of GSO":       func() { DeriveRx(b, len(b), RxOffload{CsumBlank: true, GSOSize: 1448, GSOType: GSOTCPv4}) },
		"DeriveRx of validated": func() { DeriveRx(b, len(b), RxOffload{DataValidated: true}) },
		"DeriveRx of too short": func() { DeriveRx(b[:20], len(b), RxOffload{CsumBlank: true}) },
		"CheckTx":               func() { CheckTx(v, h, len(b), everything) },
		"FinishChecksum":        func() { FinishChecksum(b, 34, tcpChecksum) },
		"Segment":               func() { Segment(b, h, 1448, buf, emit) },
	} {
		if n := testing.AllocsPerRun(100, do); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func FuzzDeriveRx(f *testing.F) {
	for _, k := range knownFrames {
		b := k.blank(f)
		f.Add(b, len(b), uint8(1), uint16(0), uint8(0))
		f.Add(b, len(b), uint8(2), uint16(0), uint8(0))
		f.Add(b, len(b)+1000, uint8(2), uint16(0), uint8(0))
		f.Add(b, len(b), uint8(1), uint16(8), uint8(GSOTCPv4))
		f.Add(b[:min(len(b), 60)], len(b), uint8(0), uint16(1448), uint8(GSOTCPv6))
	}
	f.Fuzz(func(t *testing.T, head []byte, frameLen int, flags uint8, size uint16, typ uint8) {
		in := RxOffload{CsumBlank: flags&1 != 0, DataValidated: flags&2 != 0, GSOSize: size, GSOType: typ}
		before := bytes.Clone(head)
		v, did, err := DeriveRx(head, frameLen, in)
		if err != nil {
			if v != (VirtioHeader{}) || did != 0 {
				t.Fatalf("%+v, %#x in spite of %v", v, did, err)
			}
			if !bytes.Equal(head, before) && !errors.Is(err, ErrGSO) {
				t.Fatalf("head changed in spite of %v", err)
			}
			if frameLen >= EthernetHeader && !in.CsumBlank && in.GSOType == GSONone {
				t.Fatalf("a frame with nothing pending dropped: %v", err)
			}
			if errors.Is(err, ErrTruncated) && len(head) >= min(frameLen, MaxHeaders) {
				t.Fatal("more demanded than there is to give")
			}
			return
		}
		if err := kernelAccepts(v, frameLen); err != nil {
			t.Fatalf("%+v of %d bytes: %v", v, frameLen, err)
		}
		if (in.CsumBlank || in.GSOType != GSONone) && v.Flags&VirtioNeedsCsum == 0 {
			t.Fatalf("an unfinished checksum handed in as finished: %+v", v)
		}
		h, _ := ParseHeaders(before, frameLen)
		for i := range head {
			field := h.L4 + int(v.CsumOffset)
			inSum := v.Flags&VirtioNeedsCsum != 0 && (i == field || i == field+1)
			inIP := did&RxIPSumRepaired != 0 && (i == h.L3+10 || i == h.L3+11)
			if head[i] != before[i] && !inSum && !inIP {
				t.Fatalf("byte %d changed: %+v, %+v", i, v, h)
			}
		}
	})
}

// kernelAccepts is the kernel's judgement of a header on write, from
// tun_vnet_hdr_get, tun_get_user and __virtio_net_hdr_to_skb of Linux 6.18.
func kernelAccepts(v VirtioHeader, frameLen int) error {
	hdrLen := int(v.HdrLen)
	if v.Flags&VirtioNeedsCsum != 0 {
		needed := int(v.CsumStart) + int(v.CsumOffset) + 2
		if v.GSOType != GSONone {
			needed = max(needed, int(v.CsumStart)+tcpHeader)
		}
		hdrLen = max(hdrLen, needed)
		if int(v.CsumStart) < EthernetHeader+ipv4Header {
			return fmt.Errorf("csum_start in the IP header")
		}
	}
	switch {
	case hdrLen > frameLen, hdrLen != 0 && hdrLen < EthernetHeader:
		return fmt.Errorf("headers of %d bytes", hdrLen)
	case v.GSOType == GSONone:
		return nil
	case v.GSOType != GSOTCPv4 && v.GSOType != GSOTCPv6:
		return fmt.Errorf("type %d", v.GSOType)
	case v.Flags&VirtioNeedsCsum == 0, v.CsumOffset != tcpChecksum:
		return fmt.Errorf("no TCP checksum")
	case v.GSOSize < minGSOSize, v.GSOSize == 0xffff, int(v.GSOSize) >= frameLen-hdrLen:
		return fmt.Errorf("segments of %d bytes", v.GSOSize)
	}
	return nil
}

func BenchmarkDeriveRx(b *testing.B) {
	for _, size := range []int{200, 1448} {
		f := frame{payload: filled(size), timestamp: true}
		buf := f.build(b)
		for name, in := range map[string]RxOffload{
			"blank":     {CsumBlank: true, DataValidated: true},
			"validated": {DataValidated: true},
			"plain":     {},
		} {
			b.Run(fmt.Sprintf("%s/%d", name, len(buf)), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, _, err := DeriveRx(buf, len(buf), in); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
