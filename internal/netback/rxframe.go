package netback

import (
	"encoding/binary"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// maxSegments bounds what a super-frame may be cut into here: all segments must find
// room on the ring at once.
const maxSegments = 128

// rxFrame is a frame on its way to the guest, with what is left to be done on it.
type rxFrame struct {
	data      []byte
	blank     bool // checksum is the pseudo-header's sum
	validated bool
	gsoSize   uint16
	gsoType   netif.GSOType
}

// put gives one frame from the port, virtio header in front, to the guest. If there
// are too few slots it does nothing and returns how many are needed. It may finish
// the checksum in b.
func (w *rxWorker) put(b []byte) (needed uint32, drop DropReason) {
	v, err := tap.ParseVirtioHeader(b)
	if err != nil || len(b) < tap.VirtioHeaderSize+tap.EthernetHeader {
		return 0, DropMalformed
	}
	f := rxFrame{data: b[tap.VirtioHeaderSize:]}
	if !w.q.vif.mcast.passes(f.data) {
		return 0, DropMcast
	}
	takes := &w.q.takes
	if v.GSOType != tap.GSONone {
		if drop := f.gso(v); drop != 0 {
			return 0, drop
		}
		if !takes.gso(f.gsoType) || f.etherIP() == 0 {
			return w.putSegments(f.data)
		}
	}
	f.validated = v.Flags&tap.VirtioDataValid != 0
	if v.Flags&tap.VirtioNeedsCsum != 0 {
		f.blank, f.validated = true, true
		// Linux finishes the checksum itself where the guest does not take it blank.
		// A tagged frame's it always does.
		if !takes.csum(f.etherIP()) || v.GSOType == tap.GSONone && !f.ownChecksum(v) {
			if tap.FinishChecksum(f.data, int(v.CsumStart), int(v.CsumOffset)) != nil {
				return 0, DropMalformed
			}
			f.blank, f.validated = false, false
			clear(b[:tap.VirtioHeaderSize]) // it may come again, if it must wait
		}
	}
	return w.putFrame(&f)
}

// gso takes the segmentation from the virtio header.
func (f *rxFrame) gso(v tap.VirtioHeader) DropReason {
	switch v.GSOType &^ tap.GSOECN {
	case tap.GSOTCPv4:
		f.gsoType = netif.GSOTCPv4
	case tap.GSOTCPv6:
		f.gsoType = netif.GSOTCPv6
	default:
		return DropMalformed
	}
	if f.gsoSize = v.GSOSize; f.gsoSize == 0 || v.Flags&tap.VirtioNeedsCsum == 0 {
		return DropMalformed
	}
	return 0
}

// etherIP is 4 or 6 for untagged IP, 0 for all else.
func (f *rxFrame) etherIP() int {
	switch binary.BigEndian.Uint16(f.data[12:]) {
	case etherIPv4:
		return 4
	case etherIPv6:
		return 6
	}
	return 0
}

// ownChecksum tells whether the blank checksum is that of the frame's own TCP or UDP
// header, and not of one inside a tunnel: Linux finishes that itself, since a vif has no
// features for what is encapsulated (hw_enc_features; skb_csum_hwoffload_help), and a flag
// on the ring could only mean the outer one.
func (f *rxFrame) ownChecksum(v tap.VirtioHeader) bool {
	l, drop := checksumSetup(f.data, len(f.data))
	return drop == 0 && l.need <= len(f.data) && l.start == int(v.CsumStart) && l.field == int(v.CsumOffset)
}

func (t *Takes) csum(family int) bool {
	return family == 4 && t.CsumIPv4 || family == 6 && t.CsumIPv6
}

func (t *Takes) gso(typ netif.GSOType) bool {
	return typ == netif.GSOTCPv4 && t.GSOv4 || typ == netif.GSOTCPv6 && t.GSOv6
}

// slotsFor is how many slots a frame needs (xenvif_update_needed_slots).
func (w *rxWorker) slotsFor(f *rxFrame) uint32 {
	room := netif.PageSize - w.q.vif.options.RxOffset
	n := uint32((len(f.data) + room - 1) / room)
	if f.gsoType != netif.GSONone {
		n++
	}
	return n
}

// putFrame gives the guest a frame that it takes as it is.
func (w *rxWorker) putFrame(f *rxFrame) (needed uint32, drop DropReason) {
	needed = w.slotsFor(f)
	if needed > 1 && !w.q.takes.SG || needed > w.ring.Size() {
		return 0, DropTooLarge
	}
	avail, err := w.ring.Requests()
	if err != nil {
		w.fatal(err)
		return 0, DropDisabled
	}
	if avail < needed {
		return needed, 0
	}
	w.copyOut(f)
	return 0, 0
}

// putSegments cuts a super-frame that the guest does not take whole.
func (w *rxWorker) putSegments(data []byte) (needed uint32, drop DropReason) {
	v, _ := tap.ParseVirtioHeader(w.bufs[w.next])
	h, err := tap.ParseHeaders(data, len(data))
	if err != nil {
		return 0, DropMalformed
	}
	payload := h.End - h.L4 - h.L4Len
	segments := (payload + int(v.GSOSize) - 1) / int(v.GSOSize)
	if segments > maxSegments || !w.q.takes.SG && h.L4+h.L4Len+int(v.GSOSize) > netif.PageSize {
		return 0, DropTooLarge
	}
	each := w.slotsFor(&rxFrame{data: data[:min(len(data), h.L4+h.L4Len+int(v.GSOSize))]})
	avail, err := w.ring.Requests()
	if err != nil {
		w.fatal(err)
		return 0, DropDisabled
	}
	if needed = each * uint32(segments); avail < needed {
		return needed, 0
	}
	if w.segment == nil {
		w.segment = make([]byte, rxRoom)
	}
	err = tap.Segment(data, h, int(v.GSOSize), w.segment, func(seg []byte) error {
		w.copyOut(&rxFrame{data: seg})
		return nil
	})
	if err != nil {
		return 0, DropMalformed
	}
	w.q.counters.rxSegmented.Add(1)
	return 0, 0
}

// copyOut writes a frame into the guest's pages and puts the responses. There are
// enough requests.
func (w *rxWorker) copyOut(f *rxFrame) {
	offset := w.q.vif.options.RxOffset
	left := f.data
	for slot := 0; slot == 0 || len(left) > 0; slot++ {
		q := netif.ParseRxRequest(w.ring.Request(0))
		n := min(len(left), netif.PageSize-offset)
		r := netif.RxResponse{ID: q.ID, Offset: uint16(offset), Status: int16(n)}
		page, status := w.pages.page(q.Ref)
		if status == grantOkay {
			copy(page[offset:], left[:n])
		} else {
			r.Status = status
			w.q.counters.rxCopyErrors.Add(1)
		}
		left = left[n:]
		if len(left) > 0 {
			r.Flags = netif.RxMoreData
		}
		if slot == 0 {
			r.Flags |= f.flags()
			if len(left) > 0 && w.q.vif.options.RxFirstWhole {
				r.Status = int16(len(f.data))
			}
		}
		if !w.respond(f, slot, r, page) {
			break
		}
		if slot == 0 && f.gsoType != netif.GSONone {
			w.respondExtra(netif.NewGSO(f.gsoSize, f.gsoType))
		}
	}
	w.placed++
	w.q.counters.rxBytes.Add(uint64(len(f.data)))
}

// flags are those of the first response.
func (f *rxFrame) flags() (flags uint16) {
	if f.blank {
		flags |= netif.RxCsumBlank
	}
	if f.validated {
		flags |= netif.RxDataValidated
	}
	if f.gsoType != netif.GSONone {
		flags |= netif.RxExtraInfo
	}
	return flags
}
