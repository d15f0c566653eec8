package liar

import (
	"context"
	"encoding/binary"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

const (
	feedEvery = 10 * time.Millisecond
	feedBatch = 8
)

// mac is the liar's own address, of a kind that nobody has.
var mac = net.HardwareAddr{0x02, 0x11, 0x12, 0x13, 0x14, 0x15}

// feed sends the guest ARP requests and pings of many sizes, and forgets what it answers, so
// that both rings are in use all the time.
func (l *Liar) feed(ctx context.Context) {
	sizes := []int{1, 56, 200, 1400, 4000, 8000}
	every := feedEvery
	if l.Pace > 0 {
		every = time.Duration(feedBatch) * time.Second / time.Duration(l.Pace)
	}
	for n := uint16(0); ctx.Err() == nil; l.sleep(ctx, every) {
		port := l.vif.MemoryPort()
		for range feedBatch {
			if port == nil {
				break // netback is being bound anew
			}
			header, frame := tap.VirtioHeader{}, l.ping(n, sizes[int(n)%len(sizes)])
			switch n % 16 {
			case 0:
				frame = l.arp()
			case 1:
				header, frame = l.segments()
			}
			n++
			// It fails while there is no connection.
			_ = port.Send(0, header, frame)
		}
	}
}

// arp asks who has the guest's address, and so tells the liar's.
func (l *Liar) arp() []byte {
	f := append(append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...), 0x08, 0x06)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, request
	f = append(append(f, mac...), l.Self.To4()...)
	return append(append(f, make([]byte, 6)...), l.Guest.To4()...)
}

// ping is an ICMP echo request (RFC 792) with so many bytes.
func (l *Liar) ping(seq uint16, size int) []byte {
	icmp := make([]byte, 8+size)
	icmp[0] = 8
	binary.BigEndian.PutUint16(icmp[6:], seq)
	binary.BigEndian.PutUint16(icmp[2:], ^tap.Checksum(icmp, 0))
	return l.packet(unix.IPPROTO_ICMP, icmp)
}

// segments is a super-frame of TCP, of a connection that there is not: the guest answers with
// a reset.
func (l *Liar) segments() (tap.VirtioHeader, []byte) {
	const tcpHeader, csum, payload = 20, 16, 5000
	tcp := make([]byte, tcpHeader+payload)
	binary.BigEndian.PutUint16(tcp[0:], 9)
	binary.BigEndian.PutUint16(tcp[2:], 9)
	tcp[12], tcp[13] = tcpHeader/4<<4, 0x10 // ACK
	binary.BigEndian.PutUint16(tcp[csum:], tap.PseudoHeaderSum(l.Self.To4(), l.Guest.To4(), unix.IPPROTO_TCP, len(tcp)))
	return tap.VirtioHeader{
		Flags: tap.VirtioNeedsCsum, GSOType: tap.GSOTCPv4, GSOSize: 1448,
		HdrLen: ethernetHeader + ipHeader + tcpHeader, CsumStart: ethernetHeader + ipHeader, CsumOffset: csum,
	}, l.packet(unix.IPPROTO_TCP, tcp)
}

const ethernetHeader, ipHeader = 14, 20

// packet is an IPv4 packet to the guest, as a frame.
func (l *Liar) packet(protocol byte, payload []byte) []byte {
	f := append(append(append([]byte{}, l.vif.Info().MAC...), mac...), 0x08, 0x00)
	ip := make([]byte, ipHeader, ipHeader+len(payload))
	ip[0], ip[8], ip[9] = 0x45, 64, protocol // no options, TTL
	binary.BigEndian.PutUint16(ip[2:], uint16(ipHeader+len(payload)))
	copy(ip[12:], l.Self.To4())
	copy(ip[16:], l.Guest.To4())
	binary.BigEndian.PutUint16(ip[10:], ^tap.Checksum(ip, 0))
	return append(append(f, ip...), payload...)
}
