// Package netif is the wire format of the Xen network protocol: the slots of
// xen/include/public/io/netif.h, their flags, and the names and states by which
// frontend and backend find each other. It does no I/O and keeps no state.
//
// A frame is one or more slots. On both rings the first data slot comes first, then
// the extras, then the further data slots. On the tx ring the first slot's size is
// the whole frame's, a later one's its own; on the rx ring each response has its
// own size. All integers are little endian.
//
// The format is the protocol's and does not change. From version 1.0.0 of the module on, the package
// follows Go's rules of compatibility.
package netif

import "encoding/binary"

const (
	// PageSize is the size of the page behind a slot. Data never crosses it.
	PageSize = 4096
	// MaxTxSize is the largest frame in bytes (XEN_NETIF_MAX_TX_SIZE).
	MaxTxSize = 0xffff
	// SlotsMin is how many slots for one frame every backend accepts, extras not
	// counted in (XEN_NETIF_NR_SLOTS_MIN).
	SlotsMin = 18
	// MinFirst is how many bytes the first slot must have: an Ethernet header.
	// Linux netback drops a frame with fewer.
	MinFirst = 14
)

// TxSlot and RxSlot are ring entries: the larger of request and response.
type (
	TxSlot [12]byte
	RxSlot [8]byte
)

// Flags of a tx request (NETTXF).
const (
	TxCsumBlank     = 1 << 0 // the L4 checksum is the pseudo-header's sum only
	TxDataValidated = 1 << 1 // the checksum needs no verification
	TxMoreData      = 1 << 2 // the frame goes on in another slot
	TxExtraInfo     = 1 << 3 // an extra follows
)

// Flags of an rx response (NETRXF). The first two are not where tx has them.
const (
	RxDataValidated = 1 << 0
	RxCsumBlank     = 1 << 1
	RxMoreData      = 1 << 2
	RxExtraInfo     = 1 << 3
	RxGSOPrefix     = 1 << 4 // deprecated; never negotiated here
)

// Status of a response (NETIF_RSP). An rx status above zero is a number of bytes;
// below zero it can also be a GNTST_* of the backend's grant copy.
const (
	StatusDropped = -2
	StatusError   = -1
	StatusOkay    = 0
	StatusNull    = 1 // answers an extra's slot; on tx it has no id
)

// TxRequest is netif_tx_request: gref u32 @0, offset u16 @4, flags u16 @6, id u16
// @8, size u16 @10. Offset and size are in bytes, within one page.
type TxRequest struct {
	Ref    uint32
	Offset uint16
	Flags  uint16
	ID     uint16
	Size   uint16 // of the whole frame in the first slot
}

// Slot encodes r.
func (r TxRequest) Slot() (s TxSlot) {
	binary.LittleEndian.PutUint32(s[0:], r.Ref)
	binary.LittleEndian.PutUint16(s[4:], r.Offset)
	binary.LittleEndian.PutUint16(s[6:], r.Flags)
	binary.LittleEndian.PutUint16(s[8:], r.ID)
	binary.LittleEndian.PutUint16(s[10:], r.Size)
	return s
}

// ParseTxRequest decodes a slot. Every value of it is possible.
func ParseTxRequest(s TxSlot) TxRequest {
	return TxRequest{
		Ref:    binary.LittleEndian.Uint32(s[0:]),
		Offset: binary.LittleEndian.Uint16(s[4:]),
		Flags:  binary.LittleEndian.Uint16(s[6:]),
		ID:     binary.LittleEndian.Uint16(s[8:]),
		Size:   binary.LittleEndian.Uint16(s[10:]),
	}
}

// TxResponse is netif_tx_response: id u16 @0, status s16 @2.
type TxResponse struct {
	ID     uint16
	Status int16
}

// Slot encodes r.
func (r TxResponse) Slot() (s TxSlot) {
	binary.LittleEndian.PutUint16(s[0:], r.ID)
	binary.LittleEndian.PutUint16(s[2:], uint16(r.Status))
	return s
}

// ParseTxResponse decodes a slot.
func ParseTxResponse(s TxSlot) TxResponse {
	return TxResponse{
		ID:     binary.LittleEndian.Uint16(s[0:]),
		Status: int16(binary.LittleEndian.Uint16(s[2:])),
	}
}

// RxRequest is netif_rx_request: id u16 @0, pad u16 @2, gref u32 @4.
type RxRequest struct {
	ID  uint16
	Ref uint32
}

// Slot encodes r.
func (r RxRequest) Slot() (s RxSlot) {
	binary.LittleEndian.PutUint16(s[0:], r.ID)
	binary.LittleEndian.PutUint32(s[4:], r.Ref)
	return s
}

// ParseRxRequest decodes a slot.
func ParseRxRequest(s RxSlot) RxRequest {
	return RxRequest{
		ID:  binary.LittleEndian.Uint16(s[0:]),
		Ref: binary.LittleEndian.Uint32(s[4:]),
	}
}

// RxResponse is netif_rx_response: id u16 @0, offset u16 @2, flags u16 @4, status
// s16 @6.
type RxResponse struct {
	ID     uint16
	Offset uint16 // of the data in its page
	Flags  uint16
	Status int16 // bytes in this slot, or an error below zero
}

// Slot encodes r.
func (r RxResponse) Slot() (s RxSlot) {
	binary.LittleEndian.PutUint16(s[0:], r.ID)
	binary.LittleEndian.PutUint16(s[2:], r.Offset)
	binary.LittleEndian.PutUint16(s[4:], r.Flags)
	binary.LittleEndian.PutUint16(s[6:], uint16(r.Status))
	return s
}

// ParseRxResponse decodes a slot.
func ParseRxResponse(s RxSlot) RxResponse {
	return RxResponse{
		ID:     binary.LittleEndian.Uint16(s[0:]),
		Offset: binary.LittleEndian.Uint16(s[2:]),
		Flags:  binary.LittleEndian.Uint16(s[4:]),
		Status: int16(binary.LittleEndian.Uint16(s[6:])),
	}
}
