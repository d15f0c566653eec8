package netback

import (
	"encoding/binary"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// maxHead is how many bytes of a frame may be copied to find its checksum. Linux
// looks further, but no header chain in use is longer.
const maxHead = 512

// txFrame is a frame on its way from the ring to the port. Its first bytes are
// copied, and judged by the copy; the rest stays in the guest's pages.
type txFrame struct {
	frame
	drop      DropReason // why the port does not get it; its slots are answered all the same
	csumFixup bool
	status    [1 + maxSlots]int16 // of each data slot's response
	headLen   int                 // bytes of the frame that were copied
	pieces    int                 // of the rest: used parts after the first
	parts     [2 + maxSlots][]byte
	head      [tap.VirtioHeaderSize + maxHead]byte
}

// prepare finds the frame's pages and makes its virtio header.
func (f *txFrame) prepare(pages *pageCache) {
	f.drop, f.csumFixup, f.headLen, f.pieces = 0, false, 0, 0
	f.gather(pages, 0, f.first)
	for i := range f.rest[:f.n] {
		f.gather(pages, 1+i, f.rest[i])
	}
	if f.drop == 0 {
		f.drop = f.makeHeader()
	}
}

// gather adds one slot's data: to the copied head while that is shorter than
// headerLen, then as a reference.
func (f *txFrame) gather(pages *pageCache, slot int, s netif.TxRequest) {
	f.status[slot] = netif.StatusOkay
	if s.Size == 0 {
		return
	}
	page, status := pages.page(s.Ref)
	if status != grantOkay {
		f.status[slot] = netif.StatusError
		f.drop = DropGrant
		return
	}
	data := page[s.Offset : int(s.Offset)+int(s.Size)]
	if f.headLen < headerLen {
		n := copy(f.head[tap.VirtioHeaderSize+f.headLen:][:headerLen-f.headLen], data)
		f.headLen += n
		data = data[n:]
	}
	if len(data) > 0 {
		f.pieces++
		f.parts[f.pieces] = data
	}
}

// extend copies more of the frame, until headLen is n.
func (f *txFrame) extend(n int) {
	first := 1
	for f.headLen < n && first <= f.pieces {
		k := copy(f.head[tap.VirtioHeaderSize+f.headLen:][:n-f.headLen], f.parts[first])
		f.headLen += k
		f.parts[first] = f.parts[first][k:]
		if len(f.parts[first]) == 0 {
			first++
		}
	}
	copy(f.parts[1:], f.parts[first:1+f.pieces])
	f.pieces -= first - 1
}

// makeHeader translates the slots' flags into the virtio header. What Linux's
// checksum_setup refuses is dropped.
func (f *txFrame) makeHeader() DropReason {
	var h tap.VirtioHeader
	gso := f.gso.Type != netif.ExtraNone
	blank := f.first.Flags&netif.TxCsumBlank != 0
	switch {
	case gso || blank:
		l, drop := checksumSetup(f.payload(), f.size)
		for drop == 0 && l.need > f.headLen {
			if l.need > maxHead {
				return DropCsumTruncated
			}
			f.extend(l.need)
			l, drop = checksumSetup(f.payload(), f.size)
		}
		if drop != 0 {
			return drop
		}
		h.Flags = tap.VirtioNeedsCsum
		h.CsumStart, h.CsumOffset = uint16(l.start), uint16(l.field)
		if gso {
			size, typ := f.gso.GSO()
			if drop := l.checkGSO(typ, f.size); drop != 0 {
				return drop
			}
			h.GSOSize, h.GSOType = size, tap.GSOTCPv4
			if typ == netif.GSOTCPv6 {
				h.GSOType = tap.GSOTCPv6
			}
			h.HdrLen = uint16(l.start + l.transLen)
		}
		if !blank {
			f.csumFixup = true
			binary.BigEndian.PutUint16(f.payload()[l.start+l.field:], l.pseudoHeaderSum(f.payload(), f.size))
		}
	case f.first.Flags&netif.TxDataValidated != 0:
		h.Flags = tap.VirtioDataValid
	}
	h.Put(f.head[:])
	return 0
}

// payload is the part of the frame that was copied.
func (f *txFrame) payload() []byte {
	return f.head[tap.VirtioHeaderSize : tap.VirtioHeaderSize+f.headLen]
}

// outgoing is the frame as the port gets it.
func (f *txFrame) outgoing() Outgoing {
	f.parts[0] = f.head[:tap.VirtioHeaderSize+f.headLen]
	return Outgoing{Parts: f.parts[:1+f.pieces], Flags: f.first.Flags, Slots: int(f.slots)}
}
