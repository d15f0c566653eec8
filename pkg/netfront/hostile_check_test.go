package netfront

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// checks is what must hold, and what has to be remembered for that.
type checks struct {
	txSeen, rxSeen   uint32 // requests that were looked at
	txTaken, rxTaken uint32 // responses
	touched          bool   // the backend has written over requests in the middle of this step
	lastSeq          uint64 // of the guest's frames, the last one that was sent
	kinds            [4096]simFrame
	flight           [busdma.MaxMaps]inSight
	frame            []byte
}

// inSight is what a backend sees of a map in flight: its beginning and its end.
type inSight struct {
	on       bool
	offset   int
	length   int
	from, to [16]byte
}

func (c *checks) begin() {
	c.txSeen, c.rxSeen, c.txTaken, c.rxTaken, c.touched = 0, 0, 0, 0, false
	c.flight = [busdma.MaxMaps]inSight{}
}

// step is called after every turn.
func (c *checks) step(s *sim) {
	c.published(s)
	q, r := s.p.tx, s.p.rx
	s.must(errors.Join(q.pool.Check(), r.pool.Check()))
	if n := q.ring.Unpublished() + r.ring.Unpublished(); n != 0 {
		s.fail("%d requests were put and are not published", n)
	}
	// Each request on the tx ring is a map in flight or an extra, each on the rx ring a map.
	counts := q.pool.Counts()
	if out := q.ring.Size() - q.ring.Free(); int(out) != counts.InFlight+int(q.extras) || counts.Loaded != 0 {
		s.fail("%d tx requests are out, with %+v and %d extras", out, counts, q.extras)
	}
	if n := r.pool.Counts(); n.InFlight != s.maps {
		s.fail("rx maps: %+v, want all in flight", n)
	}
	c.unchanged(s)
	c.granted(s, 1)
	c.txTaken = s.count(&s.back.tx, c.txTaken, q.ring.Consumed())
	c.rxTaken = s.count(&s.back.rx, c.rxTaken, r.ring.Consumed())
	c.touched = false
}

// count counts the slots that were lied in among those that were taken.
func (s *sim) count(r *simRing, from, to uint32) uint32 {
	for ; from != to; from++ {
		if r.lied[from&255] {
			r.lied[from&255] = false
			s.figures.Taken++
		}
	}
	return to
}

// granted: the pages of so many pairs and no others, to this domain, those of tx for reading.
func (c *checks) granted(s *sim, pairs int) {
	if n, want := len(s.kernel.refs), pairs*pairPages(s.maps); n != want {
		s.fail("%d pages are granted, want %d", n, want)
	}
}

// zeroed: a connection begins on pages in which nothing is, granted as they must be.
func (c *checks) zeroed(s *sim) {
	for _, x := range []struct {
		pages    xen.Pages
		writable bool
	}{{s.pages.rings, true}, {s.pages.tx, false}, {s.pages.rx, true}} {
		p := x.pages.(*simPages)
		if p.writable != x.writable || p.peer != s.peer {
			s.fail("pages are granted to domain %d, writable %v; want %d, %v", p.peer, p.writable, s.peer, x.writable)
		}
		for i := 0; i < len(p.mem); i += xen.PageSize {
			if !bytes.Equal(p.mem[i:i+xen.PageSize], zeroPage) {
				s.fail("page %d of %d is not zero when a connection begins", i/xen.PageSize, len(p.refs))
			}
		}
	}
}

var zeroPage = make([]byte, xen.PageSize)

var needle = bytes.Repeat([]byte{poison}, 4)

// leaked: nothing of the process's memory is on a granted page. It is called before pages are
// used anew, and at the end; those of frames are looked at when they are published, too.
func (c *checks) leaked(s *sim) {
	for _, p := range []xen.Pages{s.pages.rings, s.pages.tx, s.pages.rx} {
		if i := bytes.Index(p.Bytes(), needle); i >= 0 {
			s.fail("memory of the process is on page %d of %d that were granted, at %d", i/xen.PageSize, len(p.Refs()), i%xen.PageSize)
		}
	}
}

// violation: the accounts are right when a queue ends, and its evidence can be had.
func (c *checks) violation(s *sim) {
	s.must(errors.Join(s.p.tx.pool.Check(), s.p.rx.pool.Check()))
	for _, d := range []*RingDump{s.p.tx.dump(), s.p.rx.dump()} {
		if len(d.Responses) > maxEvidence {
			s.fail("evidence of %d responses", len(d.Responses))
		}
	}
	c.txTaken = s.count(&s.back.tx, c.txTaken, s.p.tx.ring.Consumed())
	c.rxTaken = s.count(&s.back.rx, c.rxTaken, s.p.rx.ring.Consumed())
}

// adopted: the next process begins where the last one was.
func (c *checks) adopted(s *sim) {
	s.must(errors.Join(s.p.tx.pool.Check(), s.p.rx.pool.Check()))
	c.flight = [busdma.MaxMaps]inSight{}
}

// published looks at the requests that were published since it was called last, as netback
// will, before the backend can write over them.
func (c *checks) published(s *sim) {
	if c.touched {
		c.txSeen, c.rxSeen = s.txSt.ring.Published, s.rxSt.ring.Published
		c.flight = [busdma.MaxMaps]inSight{}
		return
	}
	for c.txSeen != s.txSt.ring.Published {
		c.sent(s)
	}
	for ; c.rxSeen != s.rxSt.ring.Published; c.rxSeen++ {
		var slot netif.RxSlot
		copy(slot[:], s.back.rx.page[64+int(c.rxSeen&255)*len(slot):])
		r := netif.ParseRxRequest(slot)
		if id := s.rxSt.posted[c.rxSeen&255]; r.ID != id || int(id) >= s.maps || r.Ref != uint32(s.pages.rx.Refs()[id]) || slot[2]|slot[3] != 0 {
			s.fail("rx request %d is %+v (%x), want map %d", c.rxSeen, r, slot, id)
		}
	}
	var posted [busdma.MaxMaps]bool
	for i := c.rxSeen - uint32(s.maps); i != c.rxSeen; i++ {
		id := s.rxSt.posted[i&255]
		if posted[id] {
			s.fail("rx map %d is posted twice", id)
		}
		posted[id] = true
	}
}

// sent looks at one tx frame: netback's rules, and that it is the frame that the guest sent.
func (c *checks) sent(s *sim) {
	first, n := c.request(s, true)
	rest := int(first.Size)
	var extra *netif.Extra
	if first.Flags&netif.TxExtraInfo != 0 {
		slot := c.slot(s)
		e, err := netif.ParseExtra([8]byte(slot[:8]))
		s.must(err)
		if e.Type != netif.ExtraGSO || e.Flags != 0 || s.txSt.ids[c.txSeen&255] != noMap {
			s.fail("tx extra %+v", e)
		}
		c.txSeen++
		extra = &e
	}
	requests := []netif.TxRequest{first}
	for more := first.Flags&netif.TxMoreData != 0; more; n++ {
		r, _ := c.request(s, false)
		rest -= int(r.Size)
		requests = append(requests, r)
		more = r.Flags&netif.TxMoreData != 0
	}
	if n > netif.SlotsMin || rest < netif.MinFirst || rest > netif.PageSize || !s.features.SG && n > 1 {
		s.fail("tx frame of %d bytes in %d slots, %d in the first: %+v", first.Size, n, rest, first)
	}
	requests[0].Size = uint16(rest)
	c.frame = c.frame[:0]
	for _, r := range requests {
		c.frame = append(c.frame, c.seen(s, r)...)
	}
	c.content(s, first, extra)
	s.figures.Sent++
}

// request is the next one on the tx ring.
func (c *checks) request(s *sim, first bool) (netif.TxRequest, int) {
	if c.txSeen == s.txSt.ring.Published {
		s.fail("a tx frame goes on behind req_prod")
	}
	r := netif.ParseTxRequest(c.slot(s))
	id := s.txSt.ids[c.txSeen&255]
	c.txSeen++
	if r.ID != id || int(id) >= s.maps || r.Ref != uint32(s.pages.tx.Refs()[id]) {
		s.fail("tx request %d is %+v, for map %d", c.txSeen-1, r, id)
	}
	if m, _ := s.p.tx.pool.At(int(id)); m.State() != busdma.InFlight {
		s.fail("tx request %d is for map %d, which is %v", c.txSeen-1, id, m.State())
	}
	if !first && (int(r.Offset)+int(r.Size) > netif.PageSize || r.Size == 0) {
		s.fail("tx request %d leaves its page: %+v", c.txSeen-1, r)
	}
	return r, 1
}

func (c *checks) slot(s *sim) (slot netif.TxSlot) {
	copy(slot[:], s.back.tx.page[64+int(c.txSeen&255)*len(slot):])
	return slot
}

// seen is what the backend sees of a request. Its page has nothing of the process's.
func (c *checks) seen(s *sim, r netif.TxRequest) []byte {
	page := s.pages.tx.Bytes()[int(r.ID)*xen.PageSize : (int(r.ID)+1)*xen.PageSize]
	if int(r.Offset)+int(r.Size) > len(page) {
		s.fail("tx request leaves its page: %+v", r)
	}
	if i := bytes.Index(page, needle); i >= 0 {
		s.fail("memory of the process is on the page of %+v, at %d", r, i)
	}
	b := page[r.Offset : r.Offset+r.Size]
	f := &c.flight[r.ID]
	*f = inSight{on: true, offset: int(r.ID)*xen.PageSize + int(r.Offset), length: int(r.Size)}
	copy(f.from[:], b)
	copy(f.to[:], b[max(0, len(b)-len(f.to)):])
	return b
}

// unchanged: a page that the backend may be reading stays as it is.
func (c *checks) unchanged(s *sim) {
	for i := range c.flight[:s.maps] {
		f := &c.flight[i]
		if !f.on {
			continue
		}
		if m, _ := s.p.tx.pool.At(i); m.State() != busdma.InFlight {
			f.on = false
			continue
		}
		b := s.pages.tx.Bytes()[f.offset : f.offset+f.length]
		if n := min(f.length, len(f.from)); !bytes.Equal(b[:n], f.from[:n]) || !bytes.Equal(b[f.length-n:], f.to[:n]) {
			s.fail("map %d is in flight, and its page was written", i)
		}
	}
}

// content: it is a frame that the guest sent, in order, once, and nothing that was not asked
// for is left to the backend.
func (c *checks) content(s *sim, first netif.TxRequest, extra *netif.Extra) {
	f := s.features
	if first.Flags&netif.TxCsumBlank != 0 && (!f.Csum || first.Flags&netif.TxDataValidated == 0) || extra != nil && (!f.GSOv4 && !f.GSOv6 || first.Flags&netif.TxCsumBlank == 0) {
		s.fail("tx flags %#x, extra %+v with %+v", first.Flags, extra, f)
	}
	if c.frame[6] == announced {
		return
	}
	seq := getSeq(c.frame)
	k := c.kinds[seq%uint64(len(c.kinds))]
	if k.seq != seq {
		s.fail("a frame goes out that the guest has not sent: %x", c.frame[:14])
	}
	want := &corpus[k.kind]
	if seq < c.lastSeq || seq == c.lastSeq && !want.cut {
		s.fail("frame %d goes out after %d", seq, c.lastSeq)
	}
	c.lastSeq = seq
	sent := want.read[tap.VirtioHeaderSize:]
	if len(sent) != len(c.frame) {
		if !want.cut {
			s.fail("frame %d goes out with %d bytes, not %d", seq, len(c.frame), len(sent))
		}
		s.figures.Cut++
		return
	}
	differ := 0
	for i := range sent {
		if sent[i] != c.frame[i] && (i < 7 || i > 11) {
			differ++
		}
	}
	if differ > 2 || differ > 0 && want.v.Flags&tap.VirtioNeedsCsum == 0 { // a checksum was finished
		s.fail("frame %d goes out with %d bytes changed", seq, differ)
	}
}

// written: each frame on the TAP begins in private memory, with all that the kernel parses, and
// goes on in rx pages. The backend may have written over them just now.
func (c *checks) written(s *sim, frames [][]unix.Iovec) {
	heads, slab := s.p.rx.heads, s.pages.rx.Bytes()
	for _, iov := range frames {
		head := unsafeBytes(iov[0])
		if !within(head, heads) {
			s.fail("a frame begins in memory that the backend can write")
		}
		total := len(head) - tap.VirtioHeaderSize
		for _, v := range iov[1:] {
			b := unsafeBytes(v)
			if !within(b, slab) {
				s.fail("a frame goes on in memory that is no rx page")
			}
			total += len(b)
		}
		v, err := tap.ParseVirtioHeader(head)
		s.must(err)
		head = head[tap.VirtioHeaderSize:]
		if total < netif.MinFirst || total > netif.MaxTxSize || len(head) < netif.MinFirst {
			s.fail("a frame of %d bytes for the TAP, %d of them checked", total, len(head))
		}
		if bytes.Contains(head, needle) {
			s.fail("memory of the process goes to the TAP: %x", head)
		}
		if why := wrongHeader(v, head); why != "" {
			s.fail("a frame for the TAP with %s: %+v, %x", why, v, head)
		}
	}
}

func within(b, memory []byte) bool {
	at := addr(b) - addr(memory)
	return at < uintptr(len(memory)) && uintptr(len(b)) <= uintptr(len(memory))-at
}

// wrongHeader says what the kernel would make of a virtio header that it must not. Head is what
// was checked of the frame.
func wrongHeader(v tap.VirtioHeader, head []byte) string {
	needs := v.Flags&tap.VirtioNeedsCsum != 0
	switch {
	case v.Flags&^tap.VirtioNeedsCsum != 0:
		return "flags that nobody asked for"
	case needs && int(v.CsumStart)+int(v.CsumOffset)+2 > len(head):
		return "a checksum behind what was checked"
	case int(v.HdrLen) > len(head):
		return "headers behind what was checked"
	case v.GSOType == tap.GSONone:
		return ""
	case !needs || v.CsumOffset != 16 || v.GSOSize == 0 || int(v.CsumStart)+20 > len(head):
		return "segmentation and no TCP header"
	}
	at, typ := 14, binary.BigEndian.Uint16(head[12:])
	for typ == 0x8100 || typ == 0x88a8 {
		typ = binary.BigEndian.Uint16(head[at+2:])
		at += 4
	}
	switch {
	case v.GSOType == tap.GSOTCPv4 && typ == 0x0800 && head[at]>>4 == 4 && head[at+9] == 6 && at+int(head[at]&15)*4 == int(v.CsumStart):
	case v.GSOType == tap.GSOTCPv6 && typ == 0x86dd && head[at]>>4 == 6 && int(v.CsumStart) >= at+40:
	default:
		return "segmentation of another protocol than it is"
	}
	return ""
}
