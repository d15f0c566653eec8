// Package ring is the shared ring of xen/include/public/io/ring.h: one 4 KiB page
// in which a frontend puts requests and a backend puts responses into the same
// slots, each side in its own goroutine or domain.
//
// The page begins with a 64-byte header of little-endian 32-bit words:
//
//	offset  word       written by  meaning
//	0       req_prod   frontend    requests published
//	4       req_event  backend     notify me when req_prod passes this
//	8       rsp_prod   backend     responses published
//	12      rsp_event  frontend    notify me when rsp_prod passes this
//	64      slots      both        Size slots, a power of two
//
// Indices run freely over 32 bits; index i lives in slot i mod Size. Slots are
// plain memory. They are written before the producer word is stored and read after
// it is loaded, and the atomic store and load order the two: in Go's memory model,
// and on the hardware. A store after which the other side's word is read must besides
// be seen before that is read, which is the full barrier of
// RING_PUSH_REQUESTS_AND_CHECK_NOTIFY and of the final check; see store.
//
// Everything in the page can be changed by the other side at any moment. So each
// end keeps its own indices privately, reads a producer word once and checks it
// ([ErrOverflow]), and hands a slot out as a copy.
//
// This is the only package that touches ring memory. Its use of unsafe is sound
// because every access is inside the one page whose length and alignment
// [view] has checked, and slots are arrays of bytes, valid whatever they hold.
//
// The layout of a page is the protocol's, and a [FrontState] is what another process goes on
// with: both are stable. From version 1.0.0 of the module on, the package follows Go's rules of
// compatibility.
package ring

import (
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"
)

const (
	// PageSize is the size of a ring's page in bytes.
	PageSize   = 4096
	headerSize = 64
)

// ErrOverflow says that the other side's producer index is impossible: further
// ahead than the ring is long, or behind where it was. The ring's contents mean
// nothing any more.
var ErrOverflow = errors.New("ring: producer index out of range")

// ErrWentBack is the [ErrOverflow] of a backend's producer that is behind what was taken: one
// that has begun at index 0 again shows so.
var ErrWentBack = fmt.Errorf("%w: it went back", ErrOverflow)

// ErrState says that a frontend's private half contradicts itself, or the ring.
var ErrState = errors.New("ring: private state out of range")

// Slot is the raw bytes of one ring entry: the larger of request and response.
type Slot interface {
	~[8]byte | ~[12]byte | ~[16]byte
}

// Size is the number of slots of type S that fit one page, rounded down to a power
// of two (__RING_SIZE).
func Size[S Slot]() uint32 {
	var s S
	n := uint32(PageSize-headerSize) / uint32(unsafe.Sizeof(s))
	return 1 << (bits.Len32(n) - 1)
}

// shared is the ring as both sides see it.
type shared[S Slot] struct {
	mem  []byte // keeps the page reachable, when it is heap memory
	size uint32
}

// view checks that page can be a ring's page.
func view[S Slot](page []byte) (shared[S], error) {
	if len(page) != PageSize {
		return shared[S]{}, fmt.Errorf("ring: page of %d bytes, want %d", len(page), PageSize)
	}
	if uintptr(unsafe.Pointer(&page[0]))%8 != 0 {
		return shared[S]{}, errors.New("ring: page is not aligned to 8 bytes")
	}
	return shared[S]{mem: page, size: Size[S]()}, nil
}

func (r *shared[S]) word(offset uintptr) *uint32 {
	return (*uint32)(unsafe.Pointer(&r.mem[offset]))
}

func (r *shared[S]) reqProd() *uint32  { return r.word(0) }
func (r *shared[S]) reqEvent() *uint32 { return r.word(4) }
func (r *shared[S]) rspProd() *uint32  { return r.word(8) }
func (r *shared[S]) rspEvent() *uint32 { return r.word(12) }

// slot is index i's place in the page.
func (r *shared[S]) slot(i uint32) *S {
	var s S
	offset := headerSize + uintptr(i&(r.size-1))*unsafe.Sizeof(s)
	return (*S)(unsafe.Pointer(&r.mem[offset]))
}

// passed tells whether event lies in (from, to], the test of both
// RING_PUSH_*_AND_CHECK_NOTIFY macros.
func passed(event, from, to uint32) bool {
	return to-event < to-from
}

// Header is a reading of the four shared words, for dumps, for tests and for a diagnosis.
// Nothing that must be right may be decided by it: each word is read by itself, and two
// of them are the other end's own claim.
type Header struct {
	ReqProd  uint32 `json:"req_prod"`
	ReqEvent uint32 `json:"req_event"`
	RspProd  uint32 `json:"rsp_prod"`
	RspEvent uint32 `json:"rsp_event"`
}

// Seen is how many requests the backend says that it has looked at: it has answered them,
// or asked to be notified of a later one.
func (h Header) Seen() uint32 {
	if asked := h.ReqEvent - 1; int32(asked-h.RspProd) > 0 {
		return asked
	}
	return h.RspProd
}

func (r *shared[S]) header() Header {
	return Header{
		ReqProd:  atomic.LoadUint32(r.reqProd()),
		ReqEvent: atomic.LoadUint32(r.reqEvent()),
		RspProd:  atomic.LoadUint32(r.rspProd()),
		RspEvent: atomic.LoadUint32(r.rspEvent()),
	}
}
