package tap

import (
	"encoding/binary"
	"errors"
)

// Errors of [Segment].
var (
	// ErrNotTCP says that the frame's headers are not those of unfragmented TCP, or
	// not of this frame.
	ErrNotTCP = errors.New("not a TCP frame to segment")
	// ErrSegmentBuffer says that no segment fits into the buffer.
	ErrSegmentBuffer = errors.New("segment larger than its buffer")
)

// Flags in byte 13 of a TCP header.
const (
	tcpFIN = 1 << 0
	tcpPSH = 1 << 3
	tcpCWR = 1 << 7
)

// Segment cuts a TCP super-frame into frames of gsoSize bytes of payload, the last
// with what is left, and calls emit for each in order. h must come from
// [ParseHeaders] of frame, whose whole headers lie in it. Nothing of the offload is
// left in a segment: it has the frame's headers (tags, IP options and extension
// headers, TCP options), its own lengths, sequence number, IPv4 identification
// (counted up) and finished checksums, FIN and PSH on the last one only, CWR on the
// first only. Padding behind the datagram is dropped; a frame that needs no cutting
// comes out as one segment.
//
// Each segment is built at the beginning of buf, and is valid until emit returns.
// buf must hold h.L4+h.L4Len+gsoSize bytes, or as much as the whole frame is, and
// not overlap frame. An error of emit ends the work and is returned as it is.
//
// With h.NoPseudo the frame's TCP checksum must be the pseudo-header's sum, as it is
// under NEEDS_CSUM; otherwise it is not looked at.
//
// It fails with [ErrNotTCP] and [ErrSegmentBuffer] before the first emit.
func Segment(frame []byte, h Headers, gsoSize int, buf []byte, emit func(seg []byte) error) error {
	headers, ok := h.tcpHeaders(len(frame))
	if !ok || gsoSize <= 0 {
		return ErrNotTCP
	}
	payload := frame[headers:h.End]
	if len(buf) < headers+min(gsoSize, len(payload)) {
		return ErrSegmentBuffer
	}
	for n := 0; ; n++ {
		size := min(gsoSize, len(payload))
		seg := buf[:headers+size]
		copy(seg, frame[:headers])
		copy(seg[headers:], payload[:size])
		last := size == len(payload)
		h.patchIP(seg, n)
		h.patchTCP(seg, frame, n*gsoSize, last)
		if err := emit(seg); err != nil || last {
			return err
		}
		payload = payload[size:]
	}
}

// tcpHeaders returns the size of all headers, and whether h can be that of a TCP
// frame of n bytes.
func (h *Headers) tcpHeaders(n int) (int, bool) {
	least := ipv4Header
	if h.IPv6 {
		least = ipv6Header
	}
	size := h.L4 + h.L4Len
	ok := h.Proto == protoTCP && h.L3 >= EthernetHeader && h.L4 >= h.L3+least &&
		h.L4Len >= tcpHeader && size <= h.End && h.End <= n
	return size, ok
}

// patchIP makes seg's IP header that of segment n.
func (h *Headers) patchIP(seg []byte, n int) {
	if h.IPv6 {
		binary.BigEndian.PutUint16(seg[h.L3+4:], uint16(len(seg)-h.L3-ipv6Header))
		return
	}
	binary.BigEndian.PutUint16(seg[h.L3+2:], uint16(len(seg)-h.L3))
	id := binary.BigEndian.Uint16(seg[h.L3+4:])
	binary.BigEndian.PutUint16(seg[h.L3+4:], id+uint16(n))
	h.putIPv4Checksum(seg)
}

// patchTCP makes seg's TCP header that of the segment which begins at payload byte
// at of frame, and finishes the checksum.
func (h *Headers) patchTCP(seg, frame []byte, at int, last bool) {
	tcp := seg[h.L4:]
	seq := binary.BigEndian.Uint32(tcp[4:])
	binary.BigEndian.PutUint32(tcp[4:], seq+uint32(at))
	if !last {
		tcp[13] &^= tcpFIN | tcpPSH
	}
	if at > 0 {
		tcp[13] &^= tcpCWR
	}
	var pseudo uint16
	if h.NoPseudo {
		// The addresses may be others, so only the length is replaced in the sum.
		was := binary.BigEndian.Uint16(frame[h.L4+tcpChecksum:])
		pseudo = fold(uint64(was) + uint64(^fold(uint64(h.End-h.L4))) + uint64(len(tcp)))
	} else {
		pseudo = h.pseudoSum(seg, len(tcp))
	}
	binary.BigEndian.PutUint16(tcp[tcpChecksum:], pseudo)
	// The field is within tcp, so this cannot fail.
	_ = FinishChecksum(tcp, 0, tcpChecksum)
}
