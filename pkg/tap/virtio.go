package tap

import (
	"encoding/binary"
	"errors"
)

// VirtioHeaderSize is the size in bytes of the header in front of every frame read
// from or written to a queue (struct virtio_net_hdr_v1, set by TUNSETVNETHDRSZ).
const VirtioHeaderSize = 12

// Flags of a [VirtioHeader] (VIRTIO_NET_HDR_F of linux/virtio_net.h).
const (
	// VirtioNeedsCsum: the checksum at CsumStart+CsumOffset is the sum of the
	// pseudo-header only and covers what begins at CsumStart.
	VirtioNeedsCsum = 1 << 0
	// VirtioDataValid: the checksum was verified. A TAP sets it on read and ignores
	// it on write.
	VirtioDataValid = 1 << 1
)

// Types of segmentation of a [VirtioHeader] (VIRTIO_NET_HDR_GSO). TUNSETOFFLOAD
// decides which of them the kernel may use; UDP's have no counterpart in Xen and
// are never asked for.
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOUDP   = 3 // fragmentation, gone from the kernel
	GSOTCPv6 = 4
	GSOUDPL4 = 5
	// GSOECN is a flag beside the type: the first segment alone has CWR.
	GSOECN = 0x80
)

// ErrVirtioHeader says that a virtio header is too short, contradicts its frame, or
// asks for what was never offered to the kernel.
var ErrVirtioHeader = errors.New("bad virtio header")

// VirtioHeader is struct virtio_net_hdr_v1, little endian: flags u8 @0, gso_type u8
// @1, hdr_len u16 @2, gso_size u16 @4, csum_start u16 @6, csum_offset u16 @8,
// num_buffers u16 @10. Lengths and offsets are in bytes; CsumStart counts from the
// first byte of the Ethernet header and CsumOffset from CsumStart.
type VirtioHeader struct {
	Flags   uint8
	GSOType uint8
	// HdrLen is how much of the frame the headers are. On write it only says how
	// much the kernel makes linear; on read it is no reliable header length.
	HdrLen     uint16
	GSOSize    uint16 // payload bytes of each segment
	CsumStart  uint16
	CsumOffset uint16
	// NumBuffers has no meaning on a TAP: the kernel's side is the ten-byte
	// virtio_net_hdr, and on read it leaves these two bytes as they were
	// (tun_vnet_hdr_put of drivers/net/tun_vnet.h).
	NumBuffers uint16
}

// ParseVirtioHeader decodes the first [VirtioHeaderSize] bytes of b. It fails with
// [ErrVirtioHeader] if b is shorter, and checks no field: [CheckTx] does.
func ParseVirtioHeader(b []byte) (VirtioHeader, error) {
	if len(b) < VirtioHeaderSize {
		return VirtioHeader{}, ErrVirtioHeader
	}
	return VirtioHeader{
		Flags:      b[0],
		GSOType:    b[1],
		HdrLen:     binary.LittleEndian.Uint16(b[2:]),
		GSOSize:    binary.LittleEndian.Uint16(b[4:]),
		CsumStart:  binary.LittleEndian.Uint16(b[6:]),
		CsumOffset: binary.LittleEndian.Uint16(b[8:]),
		NumBuffers: binary.LittleEndian.Uint16(b[10:]),
	}, nil
}

// Put encodes h into the first [VirtioHeaderSize] bytes of b and reports whether b
// had room for it.
func (h VirtioHeader) Put(b []byte) bool {
	if len(b) < VirtioHeaderSize {
		return false
	}
	b[0] = h.Flags
	b[1] = h.GSOType
	binary.LittleEndian.PutUint16(b[2:], h.HdrLen)
	binary.LittleEndian.PutUint16(b[4:], h.GSOSize)
	binary.LittleEndian.PutUint16(b[6:], h.CsumStart)
	binary.LittleEndian.PutUint16(b[8:], h.CsumOffset)
	binary.LittleEndian.PutUint16(b[10:], h.NumBuffers)
	return true
}

// Pending says that something is left to be done on the frame behind h: a checksum
// or a segmentation. A frame with nothing pending needs no [ParseHeaders].
func (h VirtioHeader) Pending() bool {
	return h.Flags&VirtioNeedsCsum != 0 || h.GSOType != GSONone
}
