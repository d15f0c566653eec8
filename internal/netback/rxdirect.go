package netback

import (
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// directSlots is how many requests there must be to read a frame of unknown size
// straight into the guest's pages: 17 pages hold the largest, tag included, and one
// is left out for the GSO extra.
const directSlots = 18

// directReader reads super-frames without a copy of their own, as one grant copy of
// a real netback does: from the port into the guest's pages. It is used while
// super-frames are what comes, since it costs a small frame a long gather list.
type directReader struct {
	allowed bool // frames of several slots are taken, begin at offset 0, and each slot has its own size
	wanted  bool
	small   int // frames in a row that did not need it
	header  [tap.VirtioHeaderSize]byte
	parts   [1 + directSlots][]byte
	used    int
}

// saw is told the size of each frame.
func (d *directReader) saw(size int) {
	switch {
	case size > netif.PageSize:
		d.wanted, d.small = d.allowed, 0
	case d.wanted:
		if d.small++; d.small > 3 {
			d.wanted, d.small = false, 0
		}
	}
}

// readDirect reads the next frame into the guest's pages. It returns false if it
// cannot.
func (w *rxWorker) readDirect() bool {
	d := &w.direct
	avail, err := w.ring.Requests()
	if err != nil || avail < directSlots || w.q.vif.faults.any.Load() {
		return false
	}
	d.parts[0] = d.header[:]
	d.used = 1
	for i := range uint32(directSlots) {
		if i == 1 {
			continue // the extra's; see putDirect
		}
		page, status := w.pages.page(netif.ParseRxRequest(w.ring.Request(i)).Ref)
		if status != grantOkay {
			return false
		}
		d.parts[d.used] = page
		d.used++
	}
	n, err := w.port.ReadFrame(d.parts[:d.used])
	if n == 0 || err != nil {
		w.empty = true
		return true
	}
	d.saw(n)
	if !w.putDirect(n) {
		w.bounce(n)
		return true
	}
	w.push()
	return true
}

// putDirect puts the responses of the frame of n bytes that lies in the guest's
// pages. It returns false if the frame cannot stay as it lies there: it must be cut
// or summed up, or it has no extra, so that its second page is not where its second
// response would point.
func (w *rxWorker) putDirect(n int) bool {
	d := &w.direct
	size := n - tap.VirtioHeaderSize
	v, err := tap.ParseVirtioHeader(d.header[:])
	if err != nil || size < tap.EthernetHeader {
		return false
	}
	f := rxFrame{data: d.parts[1][:min(size, netif.PageSize)]}
	if !w.q.vif.mcast.passes(f.data) {
		return false
	}
	takes := &w.q.takes
	if v.GSOType != tap.GSONone {
		if f.gso(v) != 0 || !takes.gso(f.gsoType) || f.etherIP() == 0 {
			return false
		}
	} else if size > netif.PageSize {
		return false
	}
	f.validated = v.Flags&tap.VirtioDataValid != 0
	if v.Flags&tap.VirtioNeedsCsum != 0 {
		f.blank, f.validated = true, true
		if !takes.csum(f.etherIP()) || v.GSOType == tap.GSONone && !f.ownChecksum(v) {
			return false
		}
	}
	flags := f.flags()
	for left := size; left > 0; flags = 0 {
		q := netif.ParseRxRequest(w.ring.Request(0))
		r := netif.RxResponse{ID: q.ID, Flags: flags, Status: int16(min(left, netif.PageSize))}
		if left -= int(r.Status); left > 0 {
			r.Flags |= netif.RxMoreData
		}
		w.putResponse(r.Slot())
		if flags&netif.RxExtraInfo != 0 {
			w.putResponse(netif.NewGSO(f.gsoSize, f.gsoType).Bytes())
		}
	}
	w.placed++
	w.q.counters.rxBytes.Add(uint64(size))
	return true
}

// bounce takes the frame of n bytes out of the guest's pages again, for place.
func (w *rxWorker) bounce(n int) {
	at := 0
	for _, p := range w.direct.parts[:w.direct.used] {
		at += copy(w.bufs[0][at:n], p)
	}
	w.sizes[0] = n
	w.next, w.n = 0, 1
}
