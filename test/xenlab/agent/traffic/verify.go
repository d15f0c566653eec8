package traffic

import "encoding/binary"

// The checksums of a frame, computed anew from nothing but the standards (RFC 791,
// 768, 793, 8200), and with no line in common with what pkg/tap does about them.

// SumKind is a checksum that a frame can have.
type SumKind string

// The checksums that are looked at.
const (
	SumIPv4 SumKind = "ipv4"
	SumTCP4 SumKind = "tcp4"
	SumUDP4 SumKind = "udp4"
	SumTCP6 SumKind = "tcp6"
	SumUDP6 SumKind = "udp6"
)

// sumState is what was found in a checksum's place.
type sumState int

const (
	sumGood sumState = iota
	sumBad
	sumUnfinished // the pseudo-header's sum alone, as the kernel leaves it for a device
	sumNone       // a UDP datagram without one
)

// checksum is one that was checked.
type checksum struct {
	kind  SumKind
	state sumState
}

// What may be in front of IP, in bytes.
const (
	ethernetHeader = 14
	vlanTag        = 4
)

const (
	protocolTCP = 6
	protocolUDP = 17
)

// tagsOf returns how many VLAN tags the frame has, where what follows them begins and
// its Ethernet type. The type is 0 if the frame is too short.
func tagsOf(frame []byte) (tags, l3 int, etherType uint16) {
	for l3 = ethernetHeader; len(frame) >= l3; l3 += vlanTag {
		etherType = binary.BigEndian.Uint16(frame[l3-2:])
		if etherType != 0x8100 && etherType != 0x88a8 {
			return tags, l3, etherType
		}
		tags++
	}
	return tags, l3, 0
}

// checksums returns the checksums of a frame, none of what is not IP, nor those of
// fragments and of what IPv6 puts behind extension headers.
func checksums(frame []byte) []checksum {
	_, l3, etherType := tagsOf(frame)
	switch {
	case etherType == 0x0800 && len(frame) >= l3+20:
		return ipv4Sums(frame[l3:])
	case etherType == 0x86dd && len(frame) >= l3+40:
		return ipv6Sums(frame[l3:])
	}
	return nil
}

func ipv4Sums(b []byte) []checksum {
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || header > len(b) || total < header || total > len(b) {
		return []checksum{{SumIPv4, sumBad}}
	}
	sums := []checksum{{SumIPv4, sumGood}}
	if onesSum(0, b[:header]) != 0xffff {
		sums[0].state = sumBad
	}
	const moreOrOffset = 0x3fff
	if binary.BigEndian.Uint16(b[6:])&moreOrOffset != 0 {
		return sums
	}
	pseudo := onesSum(uint32(b[9])+uint32(total-header), b[12:20])
	switch b[9] {
	case protocolTCP:
		sums = append(sums, checksum{SumTCP4, l4State(b[header:total], pseudo, 16, false)})
	case protocolUDP:
		sums = append(sums, checksum{SumUDP4, l4State(b[header:total], pseudo, 6, true)})
	}
	return sums
}

func ipv6Sums(b []byte) []checksum {
	payload := int(binary.BigEndian.Uint16(b[4:]))
	if 40+payload > len(b) {
		return nil
	}
	l4 := b[40 : 40+payload]
	pseudo := onesSum(uint32(b[6])+uint32(payload), b[8:40])
	switch b[6] {
	case protocolTCP:
		return []checksum{{SumTCP6, l4State(l4, pseudo, 16, false)}}
	case protocolUDP:
		return []checksum{{SumUDP6, l4State(l4, pseudo, 6, false)}}
	}
	return nil
}

// l4State judges the checksum that is at offset in a whole TCP segment or UDP datagram.
func l4State(l4 []byte, pseudo uint16, offset int, mayBeNone bool) sumState {
	if len(l4) < offset+2 {
		return sumBad
	}
	field := binary.BigEndian.Uint16(l4[offset:])
	switch {
	case mayBeNone && field == 0:
		return sumNone
	case onesSum(uint32(pseudo), l4) == 0xffff:
		return sumGood
	case field == pseudo:
		return sumUnfinished
	}
	return sumBad
}

// onesSum is the ones' complement sum of b's big-endian 16-bit words and initial.
func onesSum(initial uint32, b []byte) uint16 {
	s := uint64(initial)
	for len(b) >= 4 {
		s += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
