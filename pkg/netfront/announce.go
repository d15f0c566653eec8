package netfront

import (
	"encoding/binary"
	"net"
	"slices"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// announcement makes the frames that tell the network where the stations are now: for each
// of their addresses a gratuitous ARP request (RFC 5227, section 3) or an unsolicited neighbour
// advertisement (RFC 4861, section 7.2.6), and for one that has none, a RARP request as
// hypervisors send them: switches learn the MAC address from it.
func announcement(stations []tap.Station) (frames [][]byte) {
	for _, s := range stations {
		if len(s.IPs) == 0 {
			frames = append(frames, withTags(reverseARP(s.MAC), s.Tags))
		}
		for _, ip := range s.IPs {
			f := unsolicitedNA
			if v4 := ip.To4(); v4 != nil {
				f, ip = gratuitousARP, v4
			}
			frames = append(frames, withTags(f(s.MAC, ip), s.Tags))
		}
	}
	return frames
}

// withTags puts VLAN tags into a frame, the outermost first.
func withTags(frame []byte, tags []tap.VLANTag) []byte {
	for i, t := range tags {
		tag := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, t.Protocol), t.ID)
		frame = slices.Insert(frame, 12+4*i, tag...)
	}
	return frame
}

// reverseARP is a RARP request of mac for its own address, broadcast (RFC 903).
func reverseARP(mac net.HardwareAddr) []byte {
	f := ethernet(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, 0x8035)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 3) // Ethernet, IPv4, reverse request
	f = append(f, mac...)
	f = append(f, 0, 0, 0, 0)
	f = append(f, mac...)
	return append(f, make([]byte, 4+18)...) // to the shortest frame that Ethernet has
}

// gratuitousARP is an ARP request of ip for itself, broadcast.
func gratuitousARP(mac net.HardwareAddr, ip net.IP) []byte {
	f := ethernet(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, 0x0806)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, request
	f = append(f, mac...)
	f = append(f, ip...)
	f = append(f, 0, 0, 0, 0, 0, 0)
	return append(f, ip...)
}

// unsolicitedNA is a neighbour advertisement of ip to all nodes, with the override
// flag: caches take the new place.
func unsolicitedNA(mac net.HardwareAddr, ip net.IP) []byte {
	allNodes := net.ParseIP("ff02::1")
	icmp := []byte{136, 0, 0, 0, 0x20, 0, 0, 0}
	icmp = append(icmp, ip...)
	icmp = append(icmp, 2, 1) // target link-layer address, 8 bytes
	icmp = append(icmp, mac...)

	f := ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, 0x86dd)
	f = append(f, 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255)
	f = append(f, ip...)
	f = append(f, allNodes...)
	const protoICMPv6 = 58
	sum := tap.PseudoHeaderSum(ip, allNodes, protoICMPv6, len(icmp))
	binary.BigEndian.PutUint16(icmp[2:], ^tap.Checksum(icmp, uint32(sum)))
	return append(f, icmp...)
}

func ethernet(dst, src net.HardwareAddr, etherType uint16) []byte {
	f := append([]byte{}, dst...)
	f = append(f, src...)
	return binary.BigEndian.AppendUint16(f, etherType)
}
