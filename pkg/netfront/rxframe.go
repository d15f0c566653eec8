package netfront

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// rxFrame is what the slots of one frame say. Its data is in rxQueue.parts.
type rxFrame struct {
	length  int
	whole   int    // the frame's size, if its first slot has that in place of its own; else 0
	flags   uint16 // of the first slot
	gsoSize uint16
	gsoType netif.GSOType
	drop    counter // why it cannot be handed on; 0 if it can (no drop is counter 0)
}

// gather reads one frame's slots from the i-th waiting response on, and returns the
// index behind them. Next is i itself when the frame's end is not there yet. Each
// slot is copied out of the ring once; what is wrong with one spoils its frame, no
// more, as in Linux: its maps are posted again with the others.
func (q *rxQueue) gather(i, waiting uint32) (f rxFrame, next uint32, err error) {
	q.parts = q.parts[:0]
	start := i
	first := netif.ParseRxResponse(q.ring.Response(i))
	f.flags = first.Flags
	q.rec.answer(q.ring.Consumed()+i, first)
	f.unwhole(&first)
	q.part(&f, start, first)
	i++
	if first.Flags&netif.RxExtraInfo != 0 {
		for n := 0; ; n++ {
			if n == rxExtras {
				return f, 0, violation("rx frame with more than %d extras", rxExtras)
			}
			if i == waiting {
				return f, start, nil
			}
			raw := q.ring.Response(i)
			q.rec.extra(q.ring.Consumed()+i, raw)
			e, perr := netif.ParseExtra(raw)
			i++
			if perr != nil {
				f.drop = cDropMalformed
			} else if e.Type == netif.ExtraGSO {
				f.gsoSize, f.gsoType = e.GSO()
			}
			if e.Flags&netif.ExtraMore == 0 {
				break
			}
		}
	}
	for more := first.Flags&netif.RxMoreData != 0; more; {
		if i == waiting {
			return f, start, nil
		}
		r := netif.ParseRxResponse(q.ring.Response(i))
		q.rec.answer(q.ring.Consumed()+i, r)
		q.part(&f, i, r)
		i++
		more = r.Flags&netif.RxMoreData != 0
	}
	if f.drop == 0 && (f.length < netif.MinFirst || f.length > netif.MaxTxSize || f.whole != 0 && f.whole != f.length) {
		f.drop = cDropMalformed
	}
	return f, i, nil
}

// unwhole gives the first slot its own size where it has the whole frame's: Mirage up to
// 2.1.7 writes that for a frame of several pages, as on the tx ring (write in lib/backend.ml
// of mirage-net-xen). No page has so much, and the frame goes on only where its first page is
// full. Whether it adds up is seen at the frame's end.
func (f *rxFrame) unwhole(first *netif.RxResponse) {
	room := netif.PageSize - int(first.Offset)
	if int(first.Status) <= room || room <= 0 || first.Flags&(netif.RxMoreData|netif.RxExtraInfo) != netif.RxMoreData {
		return
	}
	f.whole = int(first.Status)
	first.Status = int16(room)
}

// part adds the data of the i-th waiting response to the frame.
func (q *rxQueue) part(f *rxFrame, i uint32, r netif.RxResponse) {
	at := q.ring.Consumed() + i
	m, ok := q.pool.At(int(q.state.posted[at&(q.ring.Size()-1)]))
	switch {
	case !ok:
		f.drop = cDropMalformed
	case r.Status < 0:
		f.drop = cDropBackendError
	case int(r.Offset)+int(r.Status) > netif.PageSize:
		f.drop = cDropMalformed
	case len(q.parts) == rxSlots:
		f.drop = cDropSlots
	default:
		q.parts = append(q.parts, rxPart{m: m, offset: int(r.Offset), length: int(r.Status)})
		f.length += int(r.Status)
	}
}

// frame adds the gathered frame to the batch: a private head with the virtio header
// derived from the frame's own headers, then the rest of its pages.
func (q *rxQueue) frame(f rxFrame) (drop counter) {
	head := q.head(len(q.frames))
	in := tap.RxOffload{
		CsumBlank:     f.flags&netif.RxCsumBlank != 0,
		DataValidated: f.flags&netif.RxDataValidated != 0,
		GSOSize:       f.gsoSize,
		GSOType:       gsoToVirtio(f.gsoType),
	}
	n := q.copyHead(head[headFrame:headFrame+min(tap.HeadSize, f.length)], 0)
	hdr, did, err := tap.DeriveRx(head[headFrame:headFrame+n], f.length, in)
	if errors.Is(err, tap.ErrTruncated) && n < f.length {
		n = q.copyHead(head[headFrame:headFrame+min(tap.MaxHeaders, f.length)], n)
		hdr, did, err = tap.DeriveRx(head[headFrame:headFrame+n], f.length, in)
	}
	if err != nil {
		return cDropMalformed
	}
	if did&tap.RxGSOFixup != 0 {
		q.add(cGSOFixup, 1)
	}
	if did&tap.RxSumReplaced != 0 {
		q.add(cCsumGuessed, 1)
	}
	if f.gsoType != netif.GSONone {
		q.add(cSuperFrames, 1)
	}
	hdr.Put(head)
	begin := len(q.iovecs)
	q.iovec(head[:headFrame+n])
	q.rest(n)
	q.frames = append(q.frames, q.iovecs[begin:len(q.iovecs):len(q.iovecs)])
	q.lengths = append(q.lengths, f.length)
	return 0
}

// copyHead fills dst with the frame's first bytes, of which it has have already.
func (q *rxQueue) copyHead(dst []byte, have int) int {
	at := 0
	for _, p := range q.parts {
		if at == len(dst) {
			break
		}
		n := min(p.length, len(dst)-at)
		if at+n > have {
			skip := max(0, have-at) // not read twice: the backend could change it in between
			copy(dst[at+skip:at+n], p.m.Page()[p.offset+skip:p.offset+n])
		}
		at += n
	}
	return at
}

// rest adds the frame's data behind its first n bytes. Pages that are neighbours in
// the slab, whole and in order become one iovec.
func (q *rxQueue) rest(n int) {
	end := -1 // index of the page behind the last iovec's, if it ends with a page
	for _, p := range q.parts {
		if n >= p.length {
			n -= p.length
			continue
		}
		data := p.m.Page()[p.offset+n : p.offset+p.length]
		if p.m.Index() == end && p.offset+n == 0 {
			last := &q.iovecs[len(q.iovecs)-1]
			last.SetLen(int(last.Len) + len(data))
		} else {
			q.iovec(data)
		}
		n, end = 0, -1
		if p.offset+p.length == netif.PageSize {
			end = p.m.Index() + 1
		}
	}
}

// iovec adds b, which stays valid until the write: it is memory of a slab or of the
// private heads, and not the Go heap's.
func (q *rxQueue) iovec(b []byte) {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	q.iovecs = append(q.iovecs, v)
}

func gsoToVirtio(t netif.GSOType) uint8 {
	switch t {
	case netif.GSOTCPv4:
		return tap.GSOTCPv4
	case netif.GSOTCPv6:
		return tap.GSOTCPv6
	}
	return tap.GSONone
}
