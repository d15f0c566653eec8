package tap

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// frame describes a frame for gopacket to build, so that what this package finds
// and computes is judged by code that is not its own. The zero value is an empty TCP
// segment over IPv4.
type frame struct {
	tags      []layers.EthernetType // outermost first
	ipv6      bool
	options   []layers.IPv4Option
	chain     uint8  // IPv6 next header, if extensions follow
	extension []byte // they, ending with the next header of L4
	more      bool   // IPv4: more fragments
	fragment  uint16 // IPv4: fragment offset
	proto     layers.IPProtocol
	timestamp bool // TCP: ten bytes of options and two of padding
	flags     uint8
	seq, ack  uint32 // ack counts unless flags has SYN
	id        uint16
	payload   []byte
	padding   []byte
}

var (
	macA = net.HardwareAddr{0x00, 0x16, 0x3e, 1, 2, 3}
	macB = net.HardwareAddr{0x00, 0x16, 0x3e, 4, 5, 6}
	ip4A = net.IP{192, 0, 2, 1}
	ip4B = net.IP{192, 0, 2, 200}
	ip6A = net.ParseIP("2001:db8::1")
	ip6B = net.ParseIP("2001:db8::ffff:c8")
)

const (
	portA = 40000
	portB = 5001
)

// build makes the frame, with lengths and checksums complete.
func (f frame) build(t testing.TB) []byte {
	t.Helper()
	ethernet := &layers.Ethernet{SrcMAC: macA, DstMAC: macB}
	next := &ethernet.EthernetType
	stack := []gopacket.SerializableLayer{ethernet}
	for i, tag := range f.tags {
		*next = tag
		q := &layers.Dot1Q{VLANIdentifier: uint16(100 + i)}
		next = &q.Type
		stack = append(stack, q)
	}
	proto := f.proto
	if proto == 0 {
		proto = layers.IPProtocolTCP
	}
	var network gopacket.NetworkLayer
	if f.ipv6 {
		*next = layers.EthernetTypeIPv6
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: ip6A, DstIP: ip6B}
		stack = append(stack, ip)
		if f.extension != nil {
			ip.NextHeader = layers.IPProtocol(f.chain)
			stack = append(stack, gopacket.Payload(f.extension))
		}
		network = ip
	} else {
		*next = layers.EthernetTypeIPv4
		ip := &layers.IPv4{
			Version: 4, TTL: 64, Id: f.id, Protocol: proto, SrcIP: ip4A, DstIP: ip4B,
			Options: f.options, FragOffset: f.fragment,
		}
		if f.more {
			ip.Flags = layers.IPv4MoreFragments
		}
		stack = append(stack, ip)
		network = ip
	}
	switch proto {
	case layers.IPProtocolTCP:
		tcp := &layers.TCP{SrcPort: portA, DstPort: portB, Seq: f.seq, Ack: f.ack, ACK: f.flags&tcpSYN == 0, Window: 512}
		tcp.FIN, tcp.SYN = f.flags&tcpFIN != 0, f.flags&tcpSYN != 0
		tcp.PSH, tcp.CWR = f.flags&tcpPSH != 0, f.flags&tcpCWR != 0
		if f.timestamp {
			tcp.Options = []layers.TCPOption{{OptionType: 1}, {OptionType: 1}, {OptionType: 8, OptionLength: 10, OptionData: []byte("12345678")}}
		}
		if err := tcp.SetNetworkLayerForChecksum(network); err != nil {
			t.Fatal(err)
		}
		stack = append(stack, tcp)
	case layers.IPProtocolUDP:
		udp := &layers.UDP{SrcPort: portA, DstPort: portB}
		if err := udp.SetNetworkLayerForChecksum(network); err != nil {
			t.Fatal(err)
		}
		stack = append(stack, udp)
	}
	stack = append(stack, gopacket.Payload(f.payload))
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		t.Fatalf("build %+v: %v", f, err)
	}
	out := b.Bytes()
	n := EthernetHeader + tagSize*len(f.tags)
	if f.ipv6 {
		n += ipv6Header + int(binary.BigEndian.Uint16(out[n+4:]))
	} else {
		n += int(binary.BigEndian.Uint16(out[n+2:]))
	}
	return append(bytes.Clone(out[:n]), f.padding...) // without gopacket's own padding to 60 bytes
}

const tcpSYN = 1 << 1

// l4At and l4Size say where f's TCP or UDP header and what follows lie.
func (f frame) l4At() int {
	at := EthernetHeader + tagSize*len(f.tags)
	if f.ipv6 {
		return at + ipv6Header + len(f.extension)
	}
	n := 0
	for _, o := range f.options {
		n += int(o.OptionLength)
	}
	return at + ipv4Header + (n+3)/4*4
}

func (f frame) l4Header() int {
	switch {
	case f.proto == layers.IPProtocolUDP:
		return udpHeader
	case f.timestamp:
		return tcpHeader + 12
	}
	return tcpHeader
}

func (f frame) fieldAt() int {
	if f.proto == layers.IPProtocolUDP {
		return f.l4At() + udpChecksum
	}
	return f.l4At() + tcpChecksum
}

// pseudo is the pseudo-header's sum, written out.
func (f frame) pseudo() uint16 {
	proto := byte(protoTCP)
	if f.proto == layers.IPProtocolUDP {
		proto = protoUDP
	}
	var b []byte
	switch {
	case f.ipv6:
		b = append(append(b, ip6A...), ip6B...)
	case len(f.options) > 0 && f.options[0].OptionType == 131:
		b = append(append(b, ip4A...), routed...) // the route's end
	default:
		b = append(append(b, ip4A...), ip4B...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(f.l4Header()+len(f.payload)))
	return naiveSum(append(b, 0, 0, 0, proto))
}

// blank returns the frame as its sender hands it to an offload: the checksum is the
// pseudo-header's sum.
func (f frame) blank(t testing.TB) []byte {
	t.Helper()
	b := f.build(t)
	binary.BigEndian.PutUint16(b[f.fieldAt():], f.pseudo())
	return b
}

// filled returns n bytes which are not all the same.
func filled(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// verify lets gopacket check every length and checksum of a frame.
func verify(t testing.TB, b []byte) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("frame of %d bytes: %v", len(b), e.Error())
	}
	switch l4 := p.TransportLayer().(type) {
	case *layers.TCP:
		_ = l4.SetNetworkLayerForChecksum(p.NetworkLayer())
	case *layers.UDP:
		_ = l4.SetNetworkLayerForChecksum(p.NetworkLayer())
	}
	err, bad := p.VerifyChecksums()
	if err != nil {
		t.Fatalf("frame of %d bytes: %v", len(b), err)
	}
	for _, m := range bad {
		t.Fatalf("%v checksum is %#04x, want %#04x", m.Layer.LayerType(), m.Actual, m.Correct)
	}
	return p
}

// Extension headers, each with the next header given.
func hopByHop(next uint8) []byte   { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
func routing(next uint8) []byte    { return append([]byte{next, 2, 4, 1, 0, 0, 0, 0}, ip6A...) }
func authHeader(next uint8) []byte { return append([]byte{next, 4, 0, 0}, make([]byte, 20)...) }
func fragmentHeader(next uint8, field uint16) []byte {
	return []byte{next, 0, byte(field >> 8), byte(field), 0, 0, 0, 1}
}

func chain(headers ...[]byte) []byte { return bytes.Join(headers, nil) }

// IPv4 options: a source route of eleven bytes, so that padding follows, to routed;
// and one that does nothing.
var (
	routed      = net.IP{10, 0, 0, 2}
	sourceRoute = []layers.IPv4Option{{OptionType: 131, OptionLength: 11, OptionData: []byte{4, 10, 0, 0, 1, 10, 0, 0, 2}}}
	noOperation = []layers.IPv4Option{{OptionType: 1, OptionLength: 1}}
)
