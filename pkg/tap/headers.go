package tap

import (
	"encoding/binary"
	"errors"
)

// HeadSize is how many bytes of a frame hold all its headers but for long IPv6
// extension headers (Linux netback copies as many, XEN_NETBACK_TX_COPY_LEN), and
// MaxHeaders how many [ParseHeaders] and [DeriveRx] look at in the worst case. Who
// gives them MaxHeaders bytes, or the whole of a shorter frame, is never told
// [ErrTruncated].
const (
	HeadSize   = 128
	MaxHeaders = EthernetHeader + maxTags*tagSize + maxIPv6Chain + maxTCPHeader
)

// EthernetHeader is the size of an untagged Ethernet header in bytes, the least that
// a TAP takes for a frame.
const EthernetHeader = 14

const (
	tagSize = 4
	maxTags = 3 // an outer tag, an inner one, and one to spare

	ipv4Header   = 20
	ipv6Header   = 40
	tcpHeader    = 20
	maxTCPHeader = 60
	udpHeader    = 8

	// maxIPv6Chain is where TCP or UDP must begin, counted from the IPv6 header, to
	// be found: MAX_IPV6_HDR_LEN of the kernel's skb_checksum_setup_ipv6. Without a
	// limit, a chain of extension headers may fill the frame.
	maxIPv6Chain = 256
)

// Ethernet types that are looked into.
const (
	etherIPv4  = 0x0800
	etherIPv6  = 0x86dd
	ether8021Q = 0x8100 // customer tag
	ether8021A = 0x88a8 // service tag (802.1ad)
)

// Protocols and IPv6 extension headers (IANA's protocol numbers).
const (
	protoHopByHop = 0
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoAH       = 51
	protoNone     = 59
	protoDestOpts = 60
)

// Offsets of the checksum in the L4 header.
const (
	tcpChecksum = 16
	udpChecksum = 6
)

// Errors of [ParseHeaders].
var (
	// ErrTruncated says that the head ends before the headers do, though the frame
	// does not: the caller copies more of the frame, MaxHeaders bytes at most.
	ErrTruncated = errors.New("head of the frame is too short")
	// ErrMalformed says that the frame's headers contradict themselves or its
	// length.
	ErrMalformed = errors.New("malformed frame")
)

// Headers is where a frame's headers are. Offsets and lengths are in bytes, offsets
// from the first byte of the Ethernet header.
type Headers struct {
	EtherType uint16 // of what follows the last tag; under 0x600 it is an 802.3 length
	VLANs     int    // 802.1Q and 802.1ad tags
	L3        int    // the IPv4 or IPv6 header; -1: neither
	L4        int    // what IP carries; -1: unknown, nothing, or a fragment of it
	L4Len     int    // the TCP header with its options, 8 for UDP, else 0
	// End is the end of the IP datagram; what follows it is padding. Of other frames
	// it is the frame's end.
	End int
	// Need is, with ErrTruncated, how many bytes of the frame have to be given at
	// least. More may turn out to be needed behind them.
	Need  int
	Proto uint8 // protocol of L4, or where the chain of IPv6 headers was left
	IPv6  bool
	// Fragment says that the datagram is a part of one. An IPv6 fragment header on a
	// whole datagram does not count.
	Fragment bool
	// NoPseudo says that the pseudo-header cannot be told from these headers for
	// sure: source routes (IPv4 options, routing header) and home addresses
	// (destination options) take an address from elsewhere, and a UDP length may be
	// less than IP's. They are rare, so any such header counts, whatever is in it.
	NoPseudo bool
}

// ParseHeaders finds the headers of a frame of frameLen bytes which begins with b.
// It looks at up to three tags, IPv4 with options, IPv6 with hop-by-hop, routing,
// destination, fragment and authentication headers, TCP and UDP, and never at the
// payload. Whatever it does not know ends the search without an error: L3 or L4 is
// -1 then, or L4Len is 0.
//
// It fails with [ErrTruncated] and [ErrMalformed]. The headers found until then are
// returned with the error; in them L4 is -1, so that CanOffload is false.
//
// It keeps and allocates nothing. Every b and frameLen is allowed; of b only the
// first frameLen bytes count.
func ParseHeaders(b []byte, frameLen int) (Headers, error) {
	p := parser{b: b, h: Headers{L3: -1, L4: -1, End: frameLen}}
	if len(b) > frameLen && frameLen >= 0 {
		p.b = b[:frameLen]
	}
	err := p.ethernet()
	if err != nil {
		p.h.L4, p.h.L4Len = -1, 0
	}
	return p.h, err
}

// parser is the state of one ParseHeaders. h.End bounds what the header being
// looked at may reach: the frame's end, then the datagram's.
type parser struct {
	b []byte
	h Headers
}

// need makes sure that the frame has n bytes and b too.
func (p *parser) need(n int) error {
	switch {
	case n > p.h.End:
		return ErrMalformed
	case n > len(p.b):
		p.h.Need = n
		return ErrTruncated
	}
	return nil
}

func (p *parser) ethernet() error {
	at := EthernetHeader
	if err := p.need(at); err != nil {
		return err
	}
	p.h.EtherType = binary.BigEndian.Uint16(p.b[at-2:])
	for p.h.EtherType == ether8021Q || p.h.EtherType == ether8021A {
		if p.h.VLANs == maxTags {
			return nil
		}
		at += tagSize
		if err := p.need(at); err != nil {
			return err
		}
		p.h.VLANs++
		p.h.EtherType = binary.BigEndian.Uint16(p.b[at-2:])
	}
	switch p.h.EtherType {
	case etherIPv4:
		p.h.L3 = at
		return p.ipv4()
	case etherIPv6:
		p.h.L3, p.h.IPv6 = at, true
		return p.ipv6()
	}
	return nil
}

func (p *parser) ipv4() error {
	l3 := p.h.L3
	if err := p.need(l3 + ipv4Header); err != nil {
		return err
	}
	ihl := int(p.b[l3]&0xf) * 4
	total := int(binary.BigEndian.Uint16(p.b[l3+2:]))
	if p.b[l3]>>4 != 4 || ihl < ipv4Header || total < ihl || l3+total > p.h.End {
		return ErrMalformed
	}
	p.h.End = l3 + total
	p.h.Proto = p.b[l3+9]
	p.h.NoPseudo = ihl > ipv4Header
	if err := p.need(l3 + ihl); err != nil {
		return err
	}
	if binary.BigEndian.Uint16(p.b[l3+6:])&0x3fff != 0 { // more fragments, or an offset
		p.h.Fragment = true
		return nil
	}
	return p.transport(l3 + ihl)
}

func (p *parser) ipv6() error {
	l3 := p.h.L3
	if err := p.need(l3 + ipv6Header); err != nil {
		return err
	}
	end := l3 + ipv6Header + int(binary.BigEndian.Uint16(p.b[l3+4:]))
	if p.b[l3]>>4 != 6 || end > p.h.End {
		return ErrMalformed
	}
	p.h.End = end
	p.h.Proto = p.b[l3+6]
	at, err := p.extensions(l3 + ipv6Header)
	if at < 0 || err != nil {
		return err
	}
	return p.transport(at)
}

// extensions walks the chain of IPv6 extension headers which begins at at, and
// returns where L4 begins, or -1 when there is none to be found.
func (p *parser) extensions(at int) (int, error) {
	for {
		if at > p.h.L3+maxIPv6Chain {
			return -1, nil
		}
		size := 0
		switch p.h.Proto {
		case protoHopByHop, protoRouting, protoDestOpts, protoFragment, protoAH:
			if err := p.need(at + 8); err != nil { // the least that each of them is
				return -1, err
			}
		case protoNone:
			return -1, nil
		default:
			return at, nil
		}
		switch p.h.Proto {
		case protoRouting, protoDestOpts:
			p.h.NoPseudo = true
			fallthrough
		case protoHopByHop:
			size = (int(p.b[at+1]) + 1) * 8
		case protoAH:
			size = (int(p.b[at+1]) + 2) * 4
		case protoFragment:
			size = 8
			if binary.BigEndian.Uint16(p.b[at+2:])&0xfff9 != 0 { // an offset, or more to come
				p.h.Fragment = true
				p.h.Proto = p.b[at]
				return -1, nil
			}
		}
		p.h.Proto = p.b[at]
		at += size
		if at > p.h.End {
			return -1, ErrMalformed
		}
	}
}

// transport looks at the L4 header at at.
func (p *parser) transport(at int) error {
	switch p.h.Proto {
	case protoTCP:
		if err := p.need(at + tcpHeader); err != nil {
			return err
		}
		n := int(p.b[at+12]>>4) * 4
		if n < tcpHeader {
			return ErrMalformed
		}
		if err := p.need(at + n); err != nil {
			return err
		}
		p.h.L4Len = n
	case protoUDP:
		if err := p.need(at + udpHeader); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint16(p.b[at+4:]))
		if n < udpHeader || at+n > p.h.End {
			return ErrMalformed
		}
		if at+n < p.h.End {
			p.h.NoPseudo = true
		}
		p.h.L4Len = udpHeader
	}
	p.h.L4 = at
	return nil
}

// csumOffset returns the offset of the checksum in the L4 header, or false when L4
// is neither TCP nor UDP.
func (h *Headers) csumOffset() (int, bool) {
	if h.L4 < 0 {
		return 0, false
	}
	switch h.Proto {
	case protoTCP:
		return tcpChecksum, true
	case protoUDP:
		return udpChecksum, true
	}
	return 0, false
}

// CanOffload says whether Linux netback accepts the frame with csum_blank, that is
// whether its skb_checksum_setup (net/core/skbuff.c) will find the same L4 header:
// no tag, IPv4 or IPv6, not a fragment, TCP or UDP. IPv6 extension headers may come
// before: hop-by-hop, routing, destination, authentication, and a fragment header on
// a whole datagram (skb_checksum_setup_ipv6), within 256 bytes. What it does not
// accept is dropped after it has been answered OKAY.
func (h Headers) CanOffload() bool {
	_, ok := h.csumOffset()
	return ok && h.VLANs == 0
}
