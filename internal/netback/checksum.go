package netback

import (
	"encoding/binary"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// Protocol numbers and header lengths that checksumSetup walks over.
const (
	etherLen  = 14
	maxIPv6   = 256 // bytes in which all IPv6 extension headers begin (MAX_IPV6_HDR_LEN)
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd

	protoHopOpts  = 0
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAuth     = 51
	protoDstOpts  = 60
)

// layout is where a frame's checksum lies.
type layout struct {
	ipv6     bool
	proto    uint8 // protoTCP or protoUDP
	network  int   // offset of the IP header in the frame, bytes
	start    int   // offset of the TCP or UDP header
	field    int   // offset of the checksum in that header
	need     int   // bytes of the frame's head that are needed to tell
	transLen int   // length of the TCP header, 8 for UDP; 0 if it is not in the head
}

// checksumSetup finds the TCP or UDP checksum of an Ethernet frame of size bytes
// whose first ones are head. It accepts what skb_checksum_setup accepts: untagged
// IPv4 and IPv6 that is no fragment. What it does not, netback drops in silence,
// after it has answered that all is well.
//
// It is written anew here, and not taken from pkg/tap, so that a fault there cannot
// hide from its own test. When l.need is more than len(head) the answer is not known
// yet: call again with that many.
func checksumSetup(head []byte, size int) (l layout, drop DropReason) {
	l.network = etherLen
	if len(head) < etherLen {
		return l, DropCsumNotIP
	}
	switch binary.BigEndian.Uint16(head[12:]) {
	case etherIPv4:
		drop = l.ipv4(head, size)
	case etherIPv6:
		l.ipv6 = true
		drop = l.walkIPv6(head, size)
	default:
		drop = DropCsumNotIP // VLAN tags too
	}
	if drop != 0 || l.need > len(head) {
		return l, drop
	}
	return l, l.transport(head, size)
}

// has tells whether the frame's first n bytes are in head, and notes that they are
// needed. A frame that is shorter itself is malformed.
func (l *layout) has(n int, head []byte, size int) (ok bool, drop DropReason) {
	if n > size {
		return false, DropCsumTruncated
	}
	l.need = n
	return n <= len(head), 0
}

func (l *layout) ipv4(head []byte, size int) DropReason {
	if ok, drop := l.has(l.network+20, head, size); !ok {
		return drop
	}
	ip := head[l.network:]
	if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 { // more fragments, or an offset
		return DropCsumFragment
	}
	if ip[0]&15 < 5 {
		return DropCsumTruncated
	}
	l.start = l.network + int(ip[0]&15)*4
	l.proto = ip[9]
	return 0
}

func (l *layout) walkIPv6(head []byte, size int) DropReason {
	if ok, drop := l.has(l.network+40, head, size); !ok {
		return drop
	}
	next, at := head[l.network+6], l.network+40
	end := at + int(binary.BigEndian.Uint16(head[l.network+4:]))
	for at <= end {
		size6, ok := extension(next)
		if !ok {
			l.start, l.proto = at, next
			return 0
		}
		if at+size6 > l.network+maxIPv6 {
			return DropCsumTruncated
		}
		if ok, drop := l.has(at+size6, head, size); !ok {
			return drop
		}
		length := (int(head[at+1]) + 1) * 8
		switch next {
		case protoAuth:
			length = (int(head[at+1]) + 2) * 4
		case protoFragment:
			length = 8
			if binary.BigEndian.Uint16(head[at+2:])&0xfff9 != 0 {
				return DropCsumFragment
			}
		}
		next = head[at]
		at += length
	}
	return DropCsumTruncated
}

// extension is how many bytes of an IPv6 extension header are looked at; false if
// the protocol is none.
func extension(proto uint8) (int, bool) {
	switch proto {
	case protoHopOpts, protoRouting, protoDstOpts:
		return 2, true
	case protoFragment:
		return 8, true
	case protoAuth:
		return 12, true
	}
	return 0, false
}

func (l *layout) transport(head []byte, size int) DropReason {
	switch l.proto {
	case protoTCP:
		l.field = 16
		ok, drop := l.has(l.start+20, head, size)
		if ok {
			l.transLen = int(head[l.start+12]>>4) * 4
		}
		return drop
	case protoUDP:
		l.field, l.transLen = 6, 8
		_, drop := l.has(l.start+8, head, size)
		return drop
	}
	return DropCsumProtocol
}

// checkGSO tells whether a super-frame with this layout can be cut by the GSO extra
// that came with it: TCP of the right family, with payload.
func (l *layout) checkGSO(typ netif.GSOType, size int) DropReason {
	if l.proto != protoTCP || l.ipv6 != (typ == netif.GSOTCPv6) {
		return DropGSOFamily
	}
	if l.transLen < 20 || l.start+l.transLen >= size {
		return DropGSOHeader
	}
	return 0
}

// pseudoHeaderSum is what the checksum field holds while the checksum is blank: the
// folded sum of addresses, protocol and the length of header and payload.
func (l *layout) pseudoHeaderSum(head []byte, size int) uint16 {
	ip := head[l.network:]
	addresses := ip[12:20]
	if l.ipv6 {
		addresses = ip[8:40]
	}
	sum := uint32(l.proto) + uint32(size-l.start)
	for i := 0; i < len(addresses); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(addresses[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
