// Package framefilter decides about Ethernet frames: by simple words, or by a classic BPF
// program in the format of tcpdump -ddd.
package framefilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/bpf"
)

// Need is the number of bytes of a frame that the words need at most: Ethernet, two VLAN tags,
// IPv6 with extension headers, and ports.
const Need = 256

// Words are conditions. A frame must fulfil each one that is set.
type Words struct {
	Host  string // an address, or a network as in 192.0.2.0/24: source or destination, also of ARP
	Port  int    // of TCP or UDP, source or destination; 0: any
	Proto string // one of Protos
	Ether string // a MAC address: source or destination
}

// Protos are the protocols that Words.Proto takes.
func Protos() []string { return []string{"arp", "ip", "ip6", "icmp", "icmp6", "tcp", "udp"} }

// Filter decides about frames. It is not safe for several goroutines at a time.
type Filter struct {
	host    netip.Prefix
	port    uint16
	proto   string
	ether   net.HardwareAddr
	program *bpf.VM
	text    string
}

// New makes a filter of words and a program in the format of tcpdump -ddd. Either may be
// empty. If both are, the filter is nil.
func New(w Words, program string) (*Filter, error) {
	if w == (Words{}) && program == "" {
		return nil, nil
	}
	f := &Filter{}
	var says []string
	if w.Host != "" {
		p, err := netip.ParsePrefix(w.Host)
		if err != nil {
			a, aerr := netip.ParseAddr(w.Host)
			if aerr != nil || a.Zone() != "" {
				return nil, fmt.Errorf("host %q: expected an address, or a network like 192.0.2.0/24", w.Host)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		f.host = p.Masked()
		says = append(says, "host "+w.Host)
	}
	if w.Port < 0 || w.Port > 0xffff {
		return nil, fmt.Errorf("port %d: expected 1 to 65535", w.Port)
	}
	if f.port = uint16(w.Port); w.Port != 0 {
		says = append(says, fmt.Sprintf("port %d", w.Port))
	}
	if f.proto = w.Proto; w.Proto != "" {
		if !slices.Contains(Protos(), w.Proto) {
			return nil, fmt.Errorf("proto %q: expected one of %s", w.Proto, strings.Join(Protos(), ", "))
		}
		says = append(says, "proto "+w.Proto)
	}
	if w.Ether != "" {
		mac, err := net.ParseMAC(w.Ether)
		if err != nil || len(mac) != 6 {
			return nil, fmt.Errorf("ether %q: expected a MAC address like 00:16:3e:01:02:03", w.Ether)
		}
		f.ether = mac
		says = append(says, "ether "+w.Ether)
	}
	if program != "" {
		var err error
		if f.program, err = parseProgram(program); err != nil {
			return nil, err
		}
		says = append(says, "a BPF program")
	}
	f.text = strings.Join(says, " and ")
	return f, nil
}

// String describes the filter.
func (f *Filter) String() string { return f.text }

// Need is the number of bytes of a frame that Match needs; 0: all.
func (f *Filter) Need() int {
	if f.program != nil {
		return 0
	}
	return Need
}

// Match tells whether a frame passes the filter. It needs the first Need bytes of the frame.
func (f *Filter) Match(data []byte, _ int) bool {
	if f.program != nil {
		if n, err := f.program.Run(data); err != nil || n == 0 {
			return false
		}
	}
	if f.ether != nil && !(len(data) >= 12 && (string(data[:6]) == string(f.ether) || string(data[6:12]) == string(f.ether))) {
		return false
	}
	if f.proto == "" && f.port == 0 && !f.host.IsValid() {
		return true
	}
	h, ok := parse(data)
	switch {
	case !ok:
		return false
	case f.proto != "" && f.proto != h.network && f.proto != h.transport:
		return false
	case f.port != 0 && (!h.ports || f.port != h.from && f.port != h.to):
		return false
	case f.host.IsValid() && !f.host.Contains(h.src) && !f.host.Contains(h.dst):
		return false
	}
	return true
}

// headers are the parts of a frame to which the words apply.
type headers struct {
	network   string // arp, ip, ip6
	transport string // icmp, icmp6, tcp, udp; "" for others
	src, dst  netip.Addr
	ports     bool
	from, to  uint16
}

// Ethernet types and IP protocols.
const (
	etherIPv4, etherARP, etherVLAN, etherIPv6, etherQinQ = 0x0800, 0x0806, 0x8100, 0x86dd, 0x88a8

	ipICMP, ipTCP, ipUDP, ipICMPv6            = 1, 6, 17, 58
	ipHopByHop, ipRouting, ipFragment, ipDest = 0, 43, 44, 60
)

// parse reads a frame's headers as far as they go.
func parse(b []byte) (h headers, ok bool) {
	if len(b) < 14 {
		return h, false
	}
	kind := binary.BigEndian.Uint16(b[12:])
	b = b[14:]
	for range 2 {
		if (kind == etherVLAN || kind == etherQinQ) && len(b) >= 4 {
			kind = binary.BigEndian.Uint16(b[2:])
			b = b[4:]
		}
	}
	switch {
	case kind == etherARP && len(b) >= 8:
		h.network = "arp"
		if len(b) >= 28 && b[4] == 6 && b[5] == 4 {
			h.src, h.dst = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
		}
	case kind == etherIPv4 && len(b) >= 20 && b[0]>>4 == 4:
		h.network = "ip"
		h.src, h.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		first := binary.BigEndian.Uint16(b[6:])&0x1fff == 0 // fragment
		h.carry(b[9], b[min(len(b), int(b[0]&15)*4):], first)
	case kind == etherIPv6 && len(b) >= 40 && b[0]>>4 == 6:
		h.network = "ip6"
		h.src, h.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		h.carry6(b[6], b[40:])
	default:
		return h, false
	}
	return h, true
}

// carry6 walks the extension headers.
func (h *headers) carry6(next byte, b []byte) {
	first := true
	for {
		n := 8
		switch next {
		case ipHopByHop, ipRouting, ipDest:
			if len(b) >= 2 {
				n += 8 * int(b[1])
			}
		case ipFragment:
			if len(b) >= 4 && binary.BigEndian.Uint16(b[2:])>>3 != 0 {
				first = false
			}
		default:
			h.carry(next, b, first)
			return
		}
		if len(b) < n {
			return
		}
		next, b = b[0], b[n:]
	}
}

// carry notes the protocol above IP, and its ports. Only the first fragment has ports.
func (h *headers) carry(proto byte, b []byte, first bool) {
	switch proto {
	case ipICMP:
		h.transport = "icmp"
	case ipICMPv6:
		h.transport = "icmp6"
	case ipTCP:
		h.transport = "tcp"
	case ipUDP:
		h.transport = "udp"
	}
	if (proto == ipTCP || proto == ipUDP) && first && len(b) >= 4 {
		h.ports = true
		h.from, h.to = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
}

// errProgram describes the format of a program.
var errProgram = errors.New("expected what `tcpdump -ddd EXPRESSION` prints: a count, and a line of four numbers for each instruction")

// maxInstructions is how long a program may be (BPF_MAXINSNS).
const maxInstructions = 4096

// parseProgram reads the format of tcpdump -ddd, with line ends or commas.
func parseProgram(s string) (*bpf.VM, error) {
	lines := strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == ',' })
	var count int
	if len(lines) < 2 || len(lines) > maxInstructions+1 {
		return nil, fmt.Errorf("bpf: %w", errProgram)
	}
	if n, err := fmt.Sscanf(lines[0], "%d", &count); n != 1 || err != nil || count != len(lines)-1 {
		return nil, fmt.Errorf("bpf: first line %q and %d more: %w", lines[0], len(lines)-1, errProgram)
	}
	prog := make([]bpf.Instruction, count)
	for i, line := range lines[1:] {
		var raw bpf.RawInstruction
		if n, err := fmt.Sscanf(line, "%d %d %d %d", &raw.Op, &raw.Jt, &raw.Jf, &raw.K); n != 4 || err != nil {
			return nil, fmt.Errorf("bpf: instruction %d, %q: %w", i, line, errProgram)
		}
		prog[i] = raw.Disassemble()
		switch prog[i].(type) {
		case bpf.RawInstruction:
			return nil, fmt.Errorf("bpf: instruction %d, %q, is not one of classic BPF", i, line)
		case bpf.NegateA: // bpf.VM accepts it, and then fails at each frame
			return nil, fmt.Errorf("bpf: instruction %d, %q, is neg, which is not known here: simplify the expression", i, line)
		}
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		return nil, fmt.Errorf("bpf: %w", err)
	}
	return vm, nil
}
