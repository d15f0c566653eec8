package netfront

import (
	"encoding/binary"
	"net"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// announcement makes the frames that tell the network where the guest is now: a
// gratuitous ARP request for each IPv4 address of the link (RFC 5227, section 3) and
// an unsolicited neighbour advertisement for each IPv6 one (RFC 4861, section
// 7.2.6). The kernel sends none when a carrier comes back. Mac is the link's own address, to
// which the network shall send.
func announcement(link *tap.Device, mac net.HardwareAddr) ([][]byte, error) {
	addrs, err := link.Addresses()
	if err != nil {
		return nil, err
	}
	var frames [][]byte
	for _, ip := range addrs {
		if v4 := ip.To4(); v4 != nil {
			frames = append(frames, gratuitousARP(mac, v4))
		} else {
			frames = append(frames, unsolicitedNA(mac, ip.To16()))
		}
	}
	return frames, nil
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
