package tap

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// ErrChecksumRange says that a checksum's place or its data lie outside of the frame.
var ErrChecksumRange = errors.New("checksum outside of the frame")

// Checksum returns the Internet checksum of b before its complement (RFC 1071): the
// ones' complement sum of b's 16-bit big-endian words, an odd last byte padded with
// a zero, added to initial. Initial may be the sum of what comes before at an even
// offset.
func Checksum(b []byte, initial uint32) uint16 {
	// A ones' complement sum is the same in either byte order but for the order of
	// its own bytes, so whole words are added as they lie in memory.
	return fold(uint64(bits.ReverseBytes16(fold(sum(b)))) + uint64(initial))
}

// sum adds b's 64-bit little-endian words with the carry brought round.
func sum(b []byte) uint64 {
	var s, carry uint64
	for len(b) >= 64 {
		w := (*[64]byte)(b)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(w[0:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(w[8:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(w[16:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(w[24:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(w[32:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(w[40:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(w[48:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(w[56:]), carry)
		b = b[64:]
	}
	for len(b) >= 8 {
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	var tail uint64
	if len(b) >= 4 {
		tail = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	// At most three bytes are left; they go above what is in tail already.
	var rest uint64
	if len(b) >= 2 {
		rest = uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
		if len(b) == 1 {
			rest += uint64(b[0]) << 16
		}
	} else if len(b) == 1 {
		rest = uint64(b[0])
	}
	s, carry = bits.Add64(s, tail, carry)
	s, carry = bits.Add64(s, rest, carry)
	s, carry = bits.Add64(s, 0, carry)
	return s + carry
}

// fold brings a sum down to 16 bits.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// PseudoHeaderSum returns the sum of the pseudo-header of TCP or UDP, not
// complemented: what the checksum field holds while NEEDS_CSUM is set. Src and dst
// are 4 or 16 bytes each, l4Len is the size of the L4 header and payload in bytes.
func PseudoHeaderSum(src, dst []byte, proto uint8, l4Len int) uint16 {
	s := uint64(Checksum(src, 0)) + uint64(Checksum(dst, 0))
	return fold(s + uint64(proto) + uint64(uint32(l4Len)))
}

// pseudoSum returns the PseudoHeaderSum of l4Len bytes of L4 in the frame which
// begins with head. h must come from ParseHeaders of head, with L4 set.
func (h *Headers) pseudoSum(head []byte, l4Len int) uint16 {
	if h.IPv6 {
		// Source and destination lie side by side.
		return fold(uint64(Checksum(head[h.L3+8:h.L3+40], 0)) + uint64(h.Proto) + uint64(uint32(l4Len)))
	}
	return fold(uint64(Checksum(head[h.L3+12:h.L3+20], 0)) + uint64(h.Proto) + uint64(uint32(l4Len)))
}

// complement makes a checksum of a sum. Zero becomes 0xffff: the two are equal, and
// UDP takes zero for no checksum. The kernel does so for every protocol
// (skb_checksum_help).
func complement(sum uint16) uint16 {
	if c := ^sum; c != 0 {
		return c
	}
	return 0xffff
}

// FinishChecksum does what NEEDS_CSUM stands for: it sums up frame from start to its
// end, the field at start+offset with what is in it, and puts the complement there.
// It fails with [ErrChecksumRange], having changed nothing, if the field is not inside of
// frame. A caller who knows of padding cuts it off (Headers.End): a sum over padding
// that is not zero is wrong.
func FinishChecksum(frame []byte, start, offset int) error {
	if start < 0 || offset < 0 || start > len(frame) || offset > len(frame)-start-2 {
		return ErrChecksumRange
	}
	binary.BigEndian.PutUint16(frame[start+offset:], complement(Checksum(frame[start:], 0)))
	return nil
}
