package traffic

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// frameOf returns a frame of what IP carries, with right checksums and tags.
func frameOf(t *testing.T, v6 bool, l4 gopacket.SerializableLayer, payload []byte, tags int) []byte {
	t.Helper()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	proto := layers.IPProtocolTCP
	if _, ok := l4.(*layers.UDP); ok {
		proto = layers.IPProtocolUDP
	}
	etherType := layers.EthernetTypeIPv4
	var network gopacket.NetworkLayer = &layers.IPv4{Version: 4, TTL: 9, Protocol: proto, SrcIP: net.IP{10, 0, 0, 1}, DstIP: net.IP{10, 0, 0, 2}}
	if v6 {
		etherType = layers.EthernetTypeIPv6
		network = &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: proto, SrcIP: net.ParseIP("fd00::1"), DstIP: net.ParseIP("fd00::2")}
	}
	switch l := l4.(type) {
	case *layers.TCP:
		l.SetNetworkLayerForChecksum(network)
	case *layers.UDP:
		l.SetNetworkLayerForChecksum(network)
	}
	all := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: layers.EthernetTypeDot1Q}}
	for i := range tags {
		next := layers.EthernetTypeDot1Q
		if i == tags-1 {
			next = etherType
		}
		all = append(all, &layers.Dot1Q{VLANIdentifier: 5, Type: next})
	}
	if tags == 0 {
		all[0].(*layers.Ethernet).EthernetType = etherType
	}
	all = append(all, network.(gopacket.SerializableLayer), l4, gopacket.Payload(payload))
	buf := gopacket.NewSerializeBuffer()
	must(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...))
	return slices.Clone(buf.Bytes())
}

func TestEveryFlippedBitOfASummedByteIsSeen(t *testing.T) {
	payload := bytes.Repeat([]byte{1, 2, 0xff, 7, 9}, 7) // odd
	for _, c := range []struct {
		name string
		v6   bool
		l4   gopacket.SerializableLayer
		tags int
		want []SumKind
	}{
		{"TCP over IPv4", false, &layers.TCP{SrcPort: 1, DstPort: 2, ACK: true}, 0, []SumKind{SumIPv4, SumTCP4}},
		{"UDP over IPv4", false, &layers.UDP{SrcPort: 1, DstPort: 2}, 0, []SumKind{SumIPv4, SumUDP4}},
		{"TCP over IPv6", true, &layers.TCP{SrcPort: 1, DstPort: 2, ACK: true}, 0, []SumKind{SumTCP6}},
		{"UDP over IPv6", true, &layers.UDP{SrcPort: 1, DstPort: 2}, 0, []SumKind{SumUDP6}},
		{"TCP over IPv4, tagged", false, &layers.TCP{SrcPort: 1, DstPort: 2, SYN: true}, 1, []SumKind{SumIPv4, SumTCP4}},
		{"TCP over IPv6, two tags", true, &layers.TCP{SrcPort: 1, DstPort: 2, SYN: true}, 2, []SumKind{SumTCP6}},
	} {
		t.Run(c.name, func(t *testing.T) {
			frame := frameOf(t, c.v6, c.l4, payload, c.tags)
			var want []checksum
			for _, k := range c.want {
				want = append(want, checksum{k, sumGood})
			}
			padded := append(slices.Clone(frame), 0xaa, 0xbb) // padding is no part of it
			for _, f := range [][]byte{frame, padded} {
				if got := checksums(f); !slices.Equal(got, want) {
					t.Fatalf("got %v, want %v", got, want)
				}
			}
			l4 := ethernetHeader + c.tags*vlanTag + 20
			if c.v6 {
				l4 += 20
			}
			last := c.want[len(c.want)-1]
			for i := l4; i < len(frame); i++ {
				for bit := range 8 {
					b := slices.Clone(frame)
					b[i] ^= 1 << bit
					if got := checksums(b); got[len(got)-1] != (checksum{last, sumBad}) {
						t.Fatalf("bit %d of byte %d flipped: got %v", bit, i, got)
					}
				}
			}
		})
	}
}

func TestPseudoHeaderSumIsUnfinished(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		frame := frameOf(t, v6, &layers.TCP{SrcPort: 1, DstPort: 2, ACK: true}, []byte("payload"), 0)
		l4, pseudo := 34, onesSum(6+27, frame[26:34])
		if v6 {
			l4, pseudo = 54, onesSum(6+27, frame[22:54])
		}
		binary.BigEndian.PutUint16(frame[l4+16:], pseudo)
		got := checksums(frame)
		if got[len(got)-1].state != sumUnfinished {
			t.Errorf("IPv6 %v: %v", v6, got)
		}
		w := watcher{verify: true}
		w.frame(frame, false, auxdata{})
		w.frame(frame, false, auxdata{unfinished: true})
		if len(w.seen.In.Bad) != 1 || len(w.seen.In.Unfinished) != 1 || len(w.seen.Samples) != 1 {
			t.Errorf("unfinished is bad unless the kernel says that it is: %+v", w.seen)
		}
	}
}

func TestFragmentsAndMissingUDPSumsAreNotCounted(t *testing.T) {
	frame := frameOf(t, false, &layers.UDP{SrcPort: 1, DstPort: 2}, []byte("payload"), 0)
	none := slices.Clone(frame)
	none[40], none[41] = 0, 0
	if got := checksums(none); !slices.Equal(got, []checksum{{SumIPv4, sumGood}, {SumUDP4, sumNone}}) {
		t.Errorf("no UDP sum: %v", got)
	}
	part := slices.Clone(frame)
	part[20] |= 0x20 // more fragments
	part[24], part[25] = 0, 0
	binary.BigEndian.PutUint16(part[24:], ^onesSum(0, part[14:34]))
	if got := checksums(part); !slices.Equal(got, []checksum{{SumIPv4, sumGood}}) {
		t.Errorf("fragment: %v", got)
	}
}

func FuzzChecksums(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 60))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(checksums(b)); n > 2 {
			t.Errorf("%d checksums", n)
		}
	})
}
