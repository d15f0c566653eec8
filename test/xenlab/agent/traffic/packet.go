package traffic

import (
	"encoding/binary"
	"time"
)

// A numbered packet, big-endian:
//
//	 0  4 bytes  magic
//	 4  4 bytes  total: packets in the stream
//	 8  8 bytes  number, from 0
//	16  8 bytes  when it was sent, ns since 1970 on the sender's clock
//	24  ...      bytes that follow from the number
const (
	packetHeader = 24
	packetMagic  = 0x786e6664
)

// numbered is what is in front of a packet's filling.
type numbered struct {
	total  uint32
	number uint64
	sent   time.Time
}

// put makes b, which is at least packetHeader long, a packet.
func (p numbered) put(b []byte) {
	binary.BigEndian.PutUint32(b, packetMagic)
	binary.BigEndian.PutUint32(b[4:], p.total)
	binary.BigEndian.PutUint64(b[8:], p.number)
	binary.BigEndian.PutUint64(b[16:], uint64(p.sent.UnixNano()))
	fill(b[packetHeader:], p.number)
}

// parseNumbered returns the packet in b, and false if any byte of it is not what put
// has written, as far as that can be known.
func parseNumbered(b []byte) (numbered, bool) {
	if len(b) < packetHeader || binary.BigEndian.Uint32(b) != packetMagic {
		return numbered{}, false
	}
	p := numbered{
		total:  binary.BigEndian.Uint32(b[4:]),
		number: binary.BigEndian.Uint64(b[8:]),
		sent:   time.Unix(0, int64(binary.BigEndian.Uint64(b[16:]))),
	}
	return p, p.number < uint64(p.total) && filled(b[packetHeader:], p.number)
}

// fill writes the filling of packet n: each byte depends on n and on its place.
func fill(b []byte, n uint64) {
	for i := range b {
		b[i] = fillByte(n, i)
	}
}

func filled(b []byte, n uint64) bool {
	for i := range b {
		if b[i] != fillByte(n, i) {
			return false
		}
	}
	return true
}

func fillByte(n uint64, i int) byte {
	return byte((n + uint64(i) + 1) * 0x9e3779b97f4a7c15 >> 56)
}
