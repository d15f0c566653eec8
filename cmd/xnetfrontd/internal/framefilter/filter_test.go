package framefilter

import (
	"encoding/binary"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

const (
	macA, macB = "\x02\x00\x00\x00\x00\x0a", "\x02\x00\x00\x00\x00\x0b"
	ipv4A      = "192.0.2.1"
	ipv4B      = "198.51.100.7"
	ipv6A      = "2001:db8::1"
	ipv6B      = "2001:db8:1::2"
)

func ether(kind uint16, payload string) string {
	return macA + macB + string(binary.BigEndian.AppendUint16(nil, kind)) + payload
}

func vlan(kind uint16, payload string) string {
	return ether(0x8100, "\x00\x05"+string(binary.BigEndian.AppendUint16(nil, kind))+payload)
}

func addr(s string) string { return string(netip.MustParseAddr(s).AsSlice()) }

func ipv4(proto byte, fragment uint16, payload string) string {
	h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(h[6:], fragment)
	return string(h) + addr(ipv4A) + addr(ipv4B) + payload
}

func ipv6(next byte, payload string) string {
	h := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	return string(h) + addr(ipv6A) + addr(ipv6B) + payload
}

func ports(from, to uint16) string {
	b := binary.BigEndian.AppendUint16(nil, from)
	return string(binary.BigEndian.AppendUint16(b, to)) + "\x00\x00\x00\x00\x00\x00\x00\x00\x50\x00\x00\x00\x00\x00\x00\x00"
}

func arp() string {
	return "\x00\x01\x08\x00\x06\x04\x00\x01" + macB + addr(ipv4A) + "\x00\x00\x00\x00\x00\x00" + addr(ipv4B)
}

var frames = map[string]string{
	"arp":          ether(0x0806, arp()),
	"tcp":          ether(0x0800, ipv4(6, 0, ports(40000, 80))),
	"udp":          ether(0x0800, ipv4(17, 0, ports(53, 40000))),
	"icmp":         ether(0x0800, ipv4(1, 0, ports(8, 80))),
	"tcp fragment": ether(0x0800, ipv4(6, 100, ports(40000, 80))),
	"tcp vlan":     vlan(0x0800, ipv4(6, 0, ports(40000, 80))),
	"tcp6":         ether(0x86dd, ipv6(6, ports(40000, 80))),
	"udp6 options": ether(0x86dd, ipv6(0, "\x3c\x00"+strings.Repeat("\x00", 6)+"\x11\x01"+strings.Repeat("\x00", 14)+ports(40000, 80))),
	"icmp6":        ether(0x86dd, ipv6(58, ports(0, 80))),
	"tcp6 first":   ether(0x86dd, ipv6(44, "\x06\x00\x00\x01\x00\x00\x00\x01"+ports(40000, 80))),
	"tcp6 later":   ether(0x86dd, ipv6(44, "\x06\x00\x00\x09\x00\x00\x00\x01"+ports(40000, 80))),
	"other":        ether(0x88b5, strings.Repeat("\x45", 60)),
	"short":        "\x00\x01",
}

func TestWordsTakeWhatTheySay(t *testing.T) {
	for _, c := range []struct {
		words Words
		want  string
	}{
		{Words{Proto: "arp"}, "arp"},
		{Words{Proto: "icmp"}, "icmp"},
		{Words{Proto: "icmp6"}, "icmp6"},
		{Words{Proto: "tcp"}, "tcp, tcp fragment, tcp vlan, tcp6, tcp6 first, tcp6 later"},
		{Words{Proto: "udp"}, "udp, udp6 options"},
		{Words{Proto: "ip6"}, "icmp6, tcp6, tcp6 first, tcp6 later, udp6 options"},
		{Words{Proto: "ip", Port: 80}, "tcp, tcp vlan"},
		{Words{Port: 80}, "tcp, tcp vlan, tcp6, tcp6 first, udp6 options"},
		{Words{Port: 53}, "udp"},
		{Words{Host: ipv4A}, "arp, icmp, tcp, tcp fragment, tcp vlan, udp"},
		{Words{Host: "198.51.100.0/24", Proto: "udp"}, "udp"},
		{Words{Host: ipv6B, Proto: "icmp6"}, "icmp6"},
		{Words{Host: "203.0.113.1"}, ""},
		{Words{Ether: "02:00:00:00:00:0b", Proto: "arp"}, "arp"},
		{Words{Ether: "02:00:00:00:00:0b"}, "arp, icmp, icmp6, other, tcp, tcp fragment, tcp vlan, tcp6, tcp6 first, tcp6 later, udp, udp6 options"},
		{Words{Ether: "02:00:00:00:00:0c"}, ""},
	} {
		f, err := New(c.words, "")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for name, frame := range frames {
			if f.Match([]byte(frame), len(frame)) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: got %s, want %s", f, s, c.want)
		}
	}
}

// synProgram is what tcpdump -y EN10MB -ddd 'tcp[13] & 2 != 0' prints.
const synProgram = "9\n40 0 0 12\n21 0 6 2048\n48 0 0 23\n21 0 4 6\n40 0 0 20\n69 2 0 8191\n177 0 0 14\n80 0 0 27\n"

func TestProgramOfTcpdumpDecides(t *testing.T) {
	f, err := New(Words{}, "12\n40 0 0 12\n21 0 9 2048\n48 0 0 23\n21 0 7 6\n40 0 0 20\n69 5 0 8191\n177 0 0 14\n72 0 0 16\n21 1 0 80\n6 0 0 0\n6 0 0 262144\n6 0 0 0\n")
	if err != nil {
		t.Fatal(err)
	}
	if f.Need() != 0 || !f.Match([]byte(frames["tcp"]), 0) || f.Match([]byte(frames["udp"]), 0) || f.Match([]byte(frames["short"]), 0) {
		t.Error("the program does not decide")
	}
	both, err := New(Words{Host: "203.0.113.1"}, "1,6 0 0 1")
	if err != nil || both.Match([]byte(frames["tcp"]), 0) || both.String() != "host 203.0.113.1 and a BPF program" {
		t.Errorf("%v, %v", both, err)
	}
	needs.Program(t, "tcpdump")
	for _, expression := range []string{"tcp port 80", "icmp6", "arp host " + ipv4B, "vlan and tcp", "greater 100", "ether[12:2] = 0x88b5", "ip6 protochain 17"} {
		program, err := exec.Command("tcpdump", "-y", "EN10MB", "-ddd", expression).Output()
		if err != nil {
			t.Errorf("tcpdump %s: %v", expression, err)
			continue
		}
		if _, err := New(Words{}, string(program)); (err != nil) != strings.Contains(expression, "protochain") {
			t.Errorf("%s: %v", expression, err)
		}
	}
}

func TestWhatCannotBeAFilterIsOneLine(t *testing.T) {
	const format = ": expected what `tcpdump -ddd EXPRESSION` prints: a count, and a line of four numbers for each instruction"
	for _, c := range []struct {
		words   Words
		program string
		want    string
	}{
		{Words{Host: "example"}, "", `host "example": expected an address, or a network like 192.0.2.0/24`},
		{Words{Host: "fe80::1%eth0"}, "", `host "fe80::1%eth0": expected an address, or a network like 192.0.2.0/24`},
		{Words{Port: -1}, "", "port -1: expected 1 to 65535"},
		{Words{Port: 70000}, "", "port 70000: expected 1 to 65535"},
		{Words{Proto: "sctp"}, "", `proto "sctp": expected one of arp, ip, ip6, icmp, icmp6, tcp, udp`},
		{Words{Ether: "00:11"}, "", `ether "00:11": expected a MAC address like 00:16:3e:01:02:03`},
		{Words{Ether: "00:11:22:33:44:55:66:77"}, "", `ether "00:11:22:33:44:55:66:77": expected a MAC address like 00:16:3e:01:02:03`},
		{Words{}, "tcp port 80", "bpf" + format},
		{Words{}, "2,6 0 0 0", `bpf: first line "2" and 1 more` + format},
		{Words{}, "1,6 0", `bpf: instruction 0, "6 0"` + format},
		{Words{}, "1,255 0 0 0", `bpf: instruction 0, "255 0 0 0", is not one of classic BPF`},
		{Words{}, "2,132 0 0 0,6 0 0 1", `bpf: instruction 0, "132 0 0 0", is neg, which is not known here: simplify the expression`},
		{Words{}, synProgram, `bpf: first line "9" and 8 more` + format},
		{Words{}, "1,5 0 0 77", "bpf: cannot jump 77 instructions; jumping past program bounds"},
		{Words{}, "2,21 9 0 1,6 0 0 0", "bpf: cannot jump 9 instructions in true case; jumping past program bounds"},
	} {
		if _, err := New(c.words, c.program); err == nil || err.Error() != c.want {
			t.Errorf("%+v %q: got %v, want %s", c.words, c.program, err, c.want)
		}
	}
	if f, err := New(Words{}, ""); f != nil || err != nil {
		t.Errorf("nothing: %v, %v", f, err)
	}
}

func FuzzNoFrameAndNoProgramPanics(f *testing.F) {
	for _, frame := range frames {
		f.Add([]byte(frame), "12,40 0 0 12,21 0 9 2048,48 0 0 23,21 0 7 6,40 0 0 20,69 5 0 8191,177 0 0 14,72 0 0 16,21 1 0 80,6 0 0 0,6 0 0 262144,6 0 0 0")
	}
	words, err := New(Words{Host: ipv4A, Port: 80, Proto: "tcp"}, "")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, frame []byte, program string) {
		words.Match(frame, len(frame))
		if p, err := New(Words{}, program); err == nil && p != nil {
			p.Match(frame, len(frame))
		}
	})
}
