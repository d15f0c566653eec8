package netif

import "encoding/binary"

// CtrlSlot is an entry of the control ring.
type CtrlSlot [16]byte

// CtrlType is a request on the control ring (XEN_NETIF_CTRL_TYPE).
type CtrlType uint16

// Types of control requests. Linux netback knows the first seven.
const (
	CtrlGetHashFlags       CtrlType = 1
	CtrlSetHashFlags       CtrlType = 2
	CtrlSetHashKey         CtrlType = 3
	CtrlGetHashMappingSize CtrlType = 4
	CtrlSetHashMappingSize CtrlType = 5
	CtrlSetHashMapping     CtrlType = 6
	CtrlSetHashAlgorithm   CtrlType = 7
	CtrlGetGrefMappingSize CtrlType = 8
	CtrlAddGrefMapping     CtrlType = 9
	CtrlDelGrefMapping     CtrlType = 10
)

// Status of a control response (XEN_NETIF_CTRL_STATUS).
const (
	CtrlSuccess          = 0
	CtrlNotSupported     = 1
	CtrlInvalidParameter = 2
	CtrlBufferOverflow   = 3
)

// CtrlRequest is xen_netif_ctrl_request: id u16 @0, type u16 @2, data u32[3] @4.
type CtrlRequest struct {
	ID   uint16
	Type CtrlType
	Data [3]uint32
}

// Slot encodes r.
func (r CtrlRequest) Slot() (s CtrlSlot) {
	binary.LittleEndian.PutUint16(s[0:], r.ID)
	binary.LittleEndian.PutUint16(s[2:], uint16(r.Type))
	for i, d := range r.Data {
		binary.LittleEndian.PutUint32(s[4+4*i:], d)
	}
	return s
}

// ParseCtrlRequest decodes a slot.
func ParseCtrlRequest(s CtrlSlot) (r CtrlRequest) {
	r.ID = binary.LittleEndian.Uint16(s[0:])
	r.Type = CtrlType(binary.LittleEndian.Uint16(s[2:]))
	for i := range r.Data {
		r.Data[i] = binary.LittleEndian.Uint32(s[4+4*i:])
	}
	return r
}

// CtrlResponse is xen_netif_ctrl_response: id u16 @0, type u16 @2, status u32 @4,
// data u32 @8. Responses may come out of order.
type CtrlResponse struct {
	ID     uint16
	Type   CtrlType
	Status uint32
	Data   uint32
}

// Slot encodes r.
func (r CtrlResponse) Slot() (s CtrlSlot) {
	binary.LittleEndian.PutUint16(s[0:], r.ID)
	binary.LittleEndian.PutUint16(s[2:], uint16(r.Type))
	binary.LittleEndian.PutUint32(s[4:], r.Status)
	binary.LittleEndian.PutUint32(s[8:], r.Data)
	return s
}

// ParseCtrlResponse decodes a slot.
func ParseCtrlResponse(s CtrlSlot) CtrlResponse {
	return CtrlResponse{
		ID:     binary.LittleEndian.Uint16(s[0:]),
		Type:   CtrlType(binary.LittleEndian.Uint16(s[2:])),
		Status: binary.LittleEndian.Uint32(s[4:]),
		Data:   binary.LittleEndian.Uint32(s[8:]),
	}
}

// GrefEntry is xen_netif_gref, an entry of the table of static grants: ref u32 @0,
// flags u16 @4 (bit 0: read-only), status u16 @6.
type GrefEntry struct {
	Ref    uint32
	Flags  uint16
	Status uint16
}

// GrefReadOnly is the flag of a static grant that the backend may only read.
const GrefReadOnly = 1 << 0

// Bytes encodes e.
func (e GrefEntry) Bytes() (b [8]byte) {
	binary.LittleEndian.PutUint32(b[0:], e.Ref)
	binary.LittleEndian.PutUint16(b[4:], e.Flags)
	binary.LittleEndian.PutUint16(b[6:], e.Status)
	return b
}

// ParseGrefEntry decodes an entry.
func ParseGrefEntry(b [8]byte) GrefEntry {
	return GrefEntry{
		Ref:    binary.LittleEndian.Uint32(b[0:]),
		Flags:  binary.LittleEndian.Uint16(b[4:]),
		Status: binary.LittleEndian.Uint16(b[6:]),
	}
}
