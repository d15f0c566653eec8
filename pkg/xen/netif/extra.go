package netif

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ExtraType says what an extra is (XEN_NETIF_EXTRA_TYPE).
type ExtraType uint8

// Types of an extra.
const (
	ExtraNone     ExtraType = 0
	ExtraGSO      ExtraType = 1
	ExtraMcastAdd ExtraType = 2
	ExtraMcastDel ExtraType = 3
	ExtraHash     ExtraType = 4
	ExtraXDP      ExtraType = 5 // Linux only
	extraMax      ExtraType = 6 // first that is not one (Linux's XEN_NETIF_EXTRA_TYPE_MAX)
)

// ExtraMore is the flag of an extra that another one follows.
const ExtraMore = 1 << 0

// GSOType says what a super-frame is to be cut into (XEN_NETIF_GSO_TYPE).
type GSOType uint8

// Types of segmentation.
const (
	GSONone  GSOType = 0
	GSOTCPv4 GSOType = 1
	GSOTCPv6 GSOType = 2
)

// Hash types and algorithm of an ExtraHash.
const (
	HashIPv4     = 0
	HashIPv4TCP  = 1
	HashIPv6     = 2
	HashIPv6TCP  = 3
	HashNone     = 0 // algorithm
	HashToeplitz = 1 // algorithm
)

// Extra is netif_extra_info: type u8 @0, flags u8 @1, then six bytes that depend on
// the type. On the tx ring its slot has four more bytes, unused.
type Extra struct {
	Type  ExtraType
	Flags uint8
	Data  [6]byte
}

// Errors of [ParseExtra].
var (
	ErrExtraType = errors.New("netif: unknown type of extra")
	ErrGSO       = errors.New("netif: bad GSO extra")
)

// ParseExtra decodes the first eight bytes of a slot and checks the type. Of a GSO
// extra it also checks the fields, since they steer segmentation.
func ParseExtra(b [8]byte) (Extra, error) {
	e := Extra{Type: ExtraType(b[0]), Flags: b[1], Data: [6]byte(b[2:8])}
	if e.Type == ExtraNone || e.Type >= extraMax {
		return e, fmt.Errorf("%w: %d", ErrExtraType, b[0])
	}
	if e.Type == ExtraGSO {
		if size, typ := e.GSO(); size == 0 || (typ != GSOTCPv4 && typ != GSOTCPv6) {
			return e, fmt.Errorf("%w: size %d, type %d", ErrGSO, size, typ)
		}
	}
	return e, nil
}

// Bytes encodes e.
func (e Extra) Bytes() (b [8]byte) {
	b[0], b[1] = byte(e.Type), e.Flags
	copy(b[2:], e.Data[:])
	return b
}

// TxSlot encodes e for the tx ring.
func (e Extra) TxSlot() (s TxSlot) {
	b := e.Bytes()
	copy(s[:], b[:])
	return s
}

// NewGSO makes the extra of a super-frame whose segments carry size bytes of
// payload each (size u16 @2, type u8 @4, pad u8 @5, features u16 @6).
func NewGSO(size uint16, typ GSOType) Extra {
	e := Extra{Type: ExtraGSO}
	binary.LittleEndian.PutUint16(e.Data[0:], size)
	e.Data[2] = byte(typ)
	return e
}

// GSO returns the fields of an ExtraGSO.
func (e Extra) GSO() (size uint16, typ GSOType) {
	return binary.LittleEndian.Uint16(e.Data[0:]), GSOType(e.Data[2])
}

// Mcast returns the address of an ExtraMcastAdd or ExtraMcastDel.
func (e Extra) Mcast() [6]byte { return e.Data }

// Hash returns the fields of an ExtraHash (type u8 @2, algorithm u8 @3, value @4).
func (e Extra) Hash() (typ, algorithm uint8, value [4]byte) {
	return e.Data[0], e.Data[1], [4]byte(e.Data[2:6])
}
