package tap

import (
	"encoding/binary"
	"errors"
)

// minValidated is the frame size in bytes from which [DeriveRx] hands in a frame
// that is only data_validated so that the guest does not sum it up once more. To
// find the header and write the pseudo-header's sum takes about 50 ns, in which the
// kernel sums up some 500 bytes that it has just copied.
const minValidated = 512

// minGSOSize is the least segment a backend may ask for: what is left of the
// smallest MSS the kernel talks to (48, TCP_MIN_SND_MSS) behind 40 bytes of options,
// TCP_MIN_GSO_SIZE of linux/tcp.h. With less, one frame becomes tens of thousands of
// segments in the guest's kernel.
const minGSOSize = 8

// Errors of [DeriveRx], beside those of [ParseHeaders].
var (
	// ErrNoChecksum says that the backend left the checksum to be finished
	// (csum_blank or GSO) in a frame where there is none to be found: not IPv4 or
	// IPv6, a fragment, neither TCP nor UDP.
	ErrNoChecksum = errors.New("unfinished checksum in a frame without one")
	// ErrGSO says that a GSO extra does not fit its frame: an unknown type, another
	// IP version, no TCP, a size no segment can have, or padding behind the datagram
	// (it would become payload).
	ErrGSO = errors.New("segmentation does not fit the frame")
)

// RxOffload is what the backend says of a frame on the rx ring: two flags of its
// first response and the GSO extra, if there is one.
type RxOffload struct {
	CsumBlank     bool
	DataValidated bool
	GSOSize       uint16 // payload bytes of each segment
	// GSOType is GSONone without an extra, else GSOTCPv4 or GSOTCPv6 as a
	// [VirtioHeader] has them. Xen's own numbers are others: its TCPV6 is 2.
	GSOType uint8
}

// RxAction says what [DeriveRx] did beyond translating, for counters.
type RxAction uint8

// Actions of [DeriveRx].
const (
	// RxSumReplaced: a complete checksum that the backend vouches for was replaced
	// by the pseudo-header's sum, so that the guest does not verify it.
	RxSumReplaced RxAction = 1 << iota
	// RxGSOFixup: GSO came without csum_blank. Linux netfront counts the same as
	// rx_gso_checksum_fixup.
	RxGSOFixup
	// RxGSOCleared: the GSO extra's size is not less than the payload, so nothing is
	// to be segmented. The kernel ignores such a request too.
	RxGSOCleared
	// RxIPSumRepaired: the IPv4 header's checksum of a GSO frame was wrong.
	RxIPSumRepaired
)

// DeriveRx makes the virtio header under which a frame from the ring is written to
// the TAP. Nothing of it is taken from the backend but the wish: where the checksum
// is, how long the headers are and which segmentation fits is found in the frame's
// own headers, since the result steers the kernel's GSO code.
//
// Head is the frame's beginning in private memory ([HeadSize] bytes usually do) and
// must be what is then written in front of the rest of the frame: the backend can
// still change its page. DeriveRx changes bytes of it: the L4 checksum and the IPv4
// header's. frameLen is the size of the whole frame in bytes.
//
//   - csum_blank: NEEDS_CSUM. The pseudo-header's sum, which the field should hold
//     already, is written anew: some systems leave the length out of it when
//     segmenting. It is not where Headers.NoPseudo says that the addresses or the
//     length may be others. Padding behind the datagram stays; a sender that leaves
//     checksums open does not pad, and the receiving IP layer cuts it off.
//   - GSO: as well, and NEEDS_CSUM even if csum_blank is missing (RxGSOFixup). The
//     kernel copies the IPv4 header checksum's correctness into each segment, so it
//     is made right. A frame which needs no cutting loses the GSO (RxGSOCleared).
//   - data_validated alone: a TAP ignores DATA_VALID on write, and the guest would
//     sum the frame up. When the headers leave no doubt and the frame has 512 bytes or
//     more, the pseudo-header's sum replaces the checksum under NEEDS_CSUM, which the
//     kernel takes as verified (skb_csum_unnecessary). This trusts the backend's word
//     no more than CHECKSUM_UNNECESSARY in Linux netfront does. A UDP checksum of
//     zero stays, it means none.
//   - neither: the frame is not looked at.
//
// The result keeps the rules of __virtio_net_hdr_to_skb (linux/virtio_net.h): for
// GSO NEEDS_CSUM with csum_offset 16, the TCP header within the frame, gso_size
// neither 0 nor 0xffff and the type that of the IP version; and of
// tun_vnet_hdr_get: hdr_len within the frame. Tags are no matter to it: csum_start
// counts them in.
//
// It fails with [ErrTruncated] when csum_blank or GSO demand headers that head does
// not reach: call again with min(frameLen, MaxHeaders) bytes. Any other error
// ([ErrMalformed], [ErrNoChecksum], [ErrGSO]) means that the frame is to be dropped.
// Frames without csum_blank and GSO fail only under 14 bytes.
func DeriveRx(head []byte, frameLen int, in RxOffload) (VirtioHeader, RxAction, error) {
	if frameLen < EthernetHeader {
		return VirtioHeader{}, 0, ErrMalformed
	}
	if !in.CsumBlank && in.GSOType == GSONone {
		if !in.DataValidated || frameLen < minValidated {
			return VirtioHeader{}, 0, nil
		}
		v, did := deriveValidated(head, frameLen)
		return v, did, nil
	}
	h, err := ParseHeaders(head, frameLen)
	if err != nil {
		return VirtioHeader{}, 0, err
	}
	offset, ok := h.csumOffset()
	if !ok {
		return VirtioHeader{}, 0, ErrNoChecksum
	}
	v := h.needsCsum(offset)
	var did RxAction
	if in.GSOType != GSONone {
		if did, err = h.deriveGSO(head, in, &v); err != nil {
			return VirtioHeader{}, 0, err
		}
		if v.GSOType != GSONone && h.End != frameLen {
			return VirtioHeader{}, 0, ErrGSO
		}
	}
	// What a fixup finds in the field is of no use, so the addresses seen must do.
	if !h.NoPseudo || did&RxGSOFixup != 0 {
		h.putPseudo(head, offset)
	}
	return v, did, nil
}

// deriveValidated is DeriveRx for a frame that is only data_validated. Whatever
// stands in the way leaves the frame to be summed up by the guest.
func deriveValidated(head []byte, frameLen int) (VirtioHeader, RxAction) {
	h, err := ParseHeaders(head, frameLen)
	if err != nil || h.NoPseudo || h.End != frameLen {
		return VirtioHeader{}, 0
	}
	offset, ok := h.csumOffset()
	if !ok {
		return VirtioHeader{}, 0
	}
	if h.Proto == protoUDP && binary.BigEndian.Uint16(head[h.L4+offset:]) == 0 {
		return VirtioHeader{}, 0
	}
	h.putPseudo(head, offset)
	return h.needsCsum(offset), RxSumReplaced
}

// needsCsum makes the header of a frame whose checksum is at offset in L4.
func (h *Headers) needsCsum(offset int) VirtioHeader {
	return VirtioHeader{
		Flags:      VirtioNeedsCsum,
		HdrLen:     uint16(h.L4 + h.L4Len),
		CsumStart:  uint16(h.L4),
		CsumOffset: uint16(offset),
	}
}

// deriveGSO checks the GSO extra against the headers, adds it to v and repairs the
// IPv4 header's checksum in head.
func (h *Headers) deriveGSO(head []byte, in RxOffload, v *VirtioHeader) (RxAction, error) {
	if h.Proto != protoTCP || in.GSOType != h.gsoType() || in.GSOSize < minGSOSize {
		return 0, ErrGSO
	}
	var did RxAction
	if !in.CsumBlank {
		did |= RxGSOFixup
	}
	if h.End-h.L4-h.L4Len > int(in.GSOSize) {
		v.GSOType, v.GSOSize = in.GSOType, in.GSOSize
	} else {
		did |= RxGSOCleared
	}
	if !h.IPv6 && Checksum(head[h.L3:h.L4], 0) != 0xffff {
		h.putIPv4Checksum(head)
		did |= RxIPSumRepaired
	}
	return did, nil
}

// gsoType returns the type of segmentation that a TCP frame can have.
func (h *Headers) gsoType() uint8 {
	if h.IPv6 {
		return GSOTCPv6
	}
	return GSOTCPv4
}

// putPseudo writes the pseudo-header's sum into the checksum at offset in L4.
func (h *Headers) putPseudo(head []byte, offset int) {
	binary.BigEndian.PutUint16(head[h.L4+offset:], h.pseudoSum(head, h.End-h.L4))
}

// putIPv4Checksum writes the checksum of the IPv4 header, which ends at L4.
func (h *Headers) putIPv4Checksum(b []byte) {
	binary.BigEndian.PutUint16(b[h.L3+10:], 0)
	binary.BigEndian.PutUint16(b[h.L3+10:], ^Checksum(b[h.L3:h.L4], 0))
}

// MaxRingFrame is the largest frame in bytes that fits on the tx ring, tags
// included: the size of a request is 16 bits (XEN_NETIF_MAX_TX_SIZE).
const MaxRingFrame = 0xffff

// TxFeatures is what the backend takes over of a frame on the tx ring.
type TxFeatures struct {
	CsumIPv4 bool // no feature-no-csum-offload
	CsumIPv6 bool // feature-ipv6-csum-offload
	GSOTCPv4 bool // feature-gso-tcpv4
	GSOTCPv6 bool // feature-gso-tcpv6
}

// TxAction is what has to happen to a frame from the TAP.
type TxAction uint8

// Actions of a [TxPlan].
const (
	// TxSend: it goes on the ring as it is.
	TxSend TxAction = iota
	// TxFinish: [FinishChecksum] first.
	TxFinish
	// TxSegment: [Segment] it; each segment goes on the ring without flags but
	// data_validated.
	TxSegment
)

// TxPlan is the answer of [CheckTx].
type TxPlan struct {
	Action TxAction
	// CsumBlank and DataValidated are the flags which the frame gets on the ring,
	// after what Action demands.
	CsumBlank     bool
	DataValidated bool
	// GSOType is GSOTCPv4 or GSOTCPv6, with TxSend if a GSO extra goes with the
	// frame, else GSONone. Xen's own numbers are others.
	GSOType uint8
	// GSOSize is the payload of each segment in bytes, for the extra and for Segment.
	GSOSize uint16
	// Start, Offset and End are for TxFinish: FinishChecksum(frame[:End], Start,
	// Offset).
	Start, Offset, End int
}

// CheckTx decides how a frame read from the TAP reaches the ring. V is the kernel's
// header, h what [ParseHeaders] made of the frame, and frameLen the frame's size in
// bytes. h is not looked at unless v.Pending(). It may come with [ErrMalformed], for
// Linux may send such frames; after [ErrTruncated] more of the frame is to be parsed
// first, or GSO is refused.
//
// csum_blank goes on the ring only where the checksum v points at is the one which
// netback will find ([Headers.CanOffload]), the backend has the feature, and no
// padding follows the datagram, for netback would sum it up too. Any other checksum
// is finished here (a tag, an inner header of a tunnel, a protocol that netback does
// not know). So is GSO: what the ring cannot take is segmented, as well as what
// TUNSETOFFLOAD should have kept the kernel from sending (GSOECN) or what is longer
// than [MaxRingFrame].
//
// It fails with [ErrVirtioHeader] when v contradicts the frame or carries a type of
// segmentation that is never offered to the kernel; such a frame is to be dropped.
func CheckTx(v VirtioHeader, h Headers, frameLen int, f TxFeatures) (TxPlan, error) {
	p := TxPlan{DataValidated: v.Flags&VirtioDataValid != 0}
	if !v.Pending() {
		return p, nil
	}
	blank := v.Flags&VirtioNeedsCsum != 0
	if blank && int(v.CsumStart)+int(v.CsumOffset)+2 > frameLen {
		return TxPlan{}, ErrVirtioHeader
	}
	offset, ok := h.csumOffset()
	known := blank && ok && int(v.CsumStart) == h.L4 && int(v.CsumOffset) == offset
	offload := known && h.CanOffload() && h.End == frameLen && f.csum(h.IPv6)

	if v.GSOType != GSONone {
		if !ok || h.Proto != protoTCP || v.GSOType&^GSOECN != h.gsoType() || v.GSOSize == 0 || blank && !known {
			return TxPlan{}, ErrVirtioHeader
		}
		if h.End-h.L4-h.L4Len > int(v.GSOSize) {
			p.GSOSize, p.DataValidated = v.GSOSize, true
			if offload && v.GSOType&GSOECN == 0 && frameLen <= MaxRingFrame && f.gso(h.IPv6) {
				p.GSOType, p.CsumBlank = v.GSOType, true
			} else {
				p.Action = TxSegment
			}
			return p, nil
		}
		if !blank {
			return p, nil
		}
	}
	if offload {
		p.CsumBlank, p.DataValidated = true, true
		return p, nil
	}
	p.Action = TxFinish
	p.DataValidated = known
	p.Start, p.Offset, p.End = int(v.CsumStart), int(v.CsumOffset), h.End
	if p.Start+p.Offset+2 > p.End || p.End > frameLen {
		p.End = frameLen
	}
	return p, nil
}

func (f TxFeatures) csum(ipv6 bool) bool {
	if ipv6 {
		return f.CsumIPv6
	}
	return f.CsumIPv4
}

func (f TxFeatures) gso(ipv6 bool) bool {
	if ipv6 {
		return f.GSOTCPv6
	}
	return f.GSOTCPv4
}
