package netfront

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// simBackend is the backend's own part of the rings. What it writes goes to pages that it was
// granted for writing, and nowhere else.
type simBackend struct {
	tx, rx simRing
	taken  uint32   // tx requests that it has looked at
	open   []uint16 // ids that it owes a response; noMap is an extra
	lied   bool     // in this connection
}

// simRing is the backend's end of a ring.
type simRing struct {
	page []byte
	slot int    // bytes
	rsp  uint32 // rsp_prod, as the backend has it
	lied [256]bool
}

func newSimBackend(s *sim) simBackend {
	ring := s.pages.rings.Bytes()
	return simBackend{
		tx: simRing{page: ring[:xen.PageSize], slot: len(netif.TxSlot{})},
		rx: simRing{page: ring[xen.PageSize:], slot: len(netif.RxSlot{})},
	}
}

// put writes a response into the slot that is next.
func (r *simRing) put(b []byte) {
	r.write(64+int(r.rsp&255)*r.slot, b)
	r.rsp++
}

func (r *simRing) write(at int, b []byte) {
	for i, v := range b {
		if v == poison {
			v++
		}
		r.page[at+i] = v
	}
}

// Offsets of the words that a ring begins with.
const (
	wordReqProd  = 0
	wordReqEvent = 4
	wordRspProd  = 8
	wordRspEvent = 12
)

func (r *simRing) word(at int, v uint32) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	if at == wordRspProd { // not changed, it counts
		copy(r.page[at:], b[:])
		return
	}
	r.write(at, b[:])
}

func (r *simRing) publish() { r.word(wordRspProd, r.rsp) }

// take looks at the requests that are there. What the frontend has noted of them stands in
// for their slots, which a lie may have overwritten.
func (b *simBackend) take(s *sim) {
	for pub := s.txSt.ring.Published; b.taken != pub; b.taken++ {
		b.open = append(b.open, s.txSt.ids[b.taken&255])
	}
}

// answer gives n tx responses, as netback does: in any order.
func (b *simBackend) answer(s *sim, n int) {
	b.take(s)
	for range min(n, len(b.open)) {
		rsp := netif.TxResponse{}
		if rsp.ID = b.pick(s.rnd); rsp.ID == noMap {
			rsp = netif.TxResponse{Status: netif.StatusNull}
		}
		slot := rsp.Slot()
		b.tx.put(slot[:])
	}
	b.tx.publish()
	b.tx.word(wordReqEvent, b.taken+1)
}

// pick takes one of the ids that are open.
func (b *simBackend) pick(r *rand.Rand) uint16 {
	i := r.IntN(min(len(b.open), 8))
	id := b.open[i]
	b.open = append(b.open[:i], b.open[i+1:]...)
	return id
}

// free is how many rx buffers the backend may fill.
func (b *simBackend) free(s *sim) int { return int(int32(s.rxSt.ring.Published - b.rx.rsp)) }

// buffer is the page of the rx buffer that is ahead by n.
func (b *simBackend) buffer(s *sim, n int) []byte {
	id := int(s.rxSt.posted[(b.rx.rsp+uint32(n))&255])
	return s.pages.rx.Bytes()[id*xen.PageSize : (id+1)*xen.PageSize]
}

// send gives the guest a frame, as netback does. It tells whether there was room.
func (b *simBackend) send(s *sim, f *corpusFrame, flags uint16, gso *netif.Extra) bool {
	frame := f.read[tap.VirtioHeaderSize:]
	need := pages(len(frame))
	if gso != nil {
		need++
	}
	if b.free(s) < need {
		return false
	}
	for first := true; len(frame) > 0; first = false {
		n := min(len(frame), xen.PageSize)
		copy(b.buffer(s, 0), frame[:n])
		rsp := netif.RxResponse{ID: s.rxSt.posted[b.rx.rsp&255], Status: int16(n)}
		if first {
			rsp.Flags = flags
		}
		if frame = frame[n:]; len(frame) > 0 {
			rsp.Flags |= netif.RxMoreData
		}
		if first && gso != nil {
			rsp.Flags |= netif.RxExtraInfo
		}
		slot := rsp.Slot()
		b.rx.put(slot[:])
		if first && gso != nil {
			e := gso.Bytes()
			b.rx.put(e[:])
		}
	}
	b.rx.publish()
	return true
}

// lie is one lie, whichever.
func (s *sim) lie() {
	switch s.rnd.IntN(8) {
	case 0, 1:
		s.lieOnTx()
	case 2, 3, 4:
		s.lieOnRx()
	case 5:
		s.lieInWords()
	case 6:
		s.lieInPages()
	default:
		s.lieOverRing()
	}
	s.check.touched = true
}

// lieOnTx gives responses with any status to requests that are there, and now and then for
// ids that are not.
func (s *sim) lieOnTx() {
	b, r := &s.back, s.rnd
	b.lied = true
	b.take(s)
	wrong := r.IntN(4) == 0
	n := len(b.open)
	if n > 0 {
		n = 1 + r.IntN(n)
	}
	if r.IntN(32) == 0 {
		n += 1 + r.IntN(300) // more than there are requests
	}
	for range n {
		var slot [12]byte
		binary.LittleEndian.PutUint64(slot[4:], r.Uint64())
		id := uint16(r.Uint32())
		if len(b.open) > 0 {
			id = b.pick(r)
		}
		status := oddStatus(r)
		if id == noMap {
			status = netif.StatusNull
		}
		if wrong && r.IntN(8) == 0 {
			id, status = oddID(r, id), oddStatus(r)
		} else if status == netif.StatusNull && id != noMap && !wrong {
			status = netif.StatusOkay
		}
		binary.LittleEndian.PutUint16(slot[0:], id)
		binary.LittleEndian.PutUint16(slot[2:], uint16(status))
		b.tx.lied[b.tx.rsp&255] = true
		b.tx.put(slot[:])
		s.figures.Lied++
	}
	b.tx.publish()
}

func oddID(r *rand.Rand, id uint16) uint16 {
	switch r.IntN(6) {
	case 0:
		return id + 1
	case 1:
		return id - 1
	case 2:
		return 0xffff
	case 3:
		return busdma.MaxMaps
	case 4:
		return uint16(r.IntN(busdma.MaxMaps))
	}
	return uint16(r.Uint32())
}

func oddStatus(r *rand.Rand) int16 {
	switch r.IntN(8) {
	case 0:
		return netif.StatusError
	case 1:
		return netif.StatusDropped
	case 2:
		return netif.StatusNull
	case 3:
		return int16(r.Uint32())
	case 4:
		return -0x8000
	}
	return netif.StatusOkay
}

// lieOnRx fills buffers with frames that are cut, chained and described at random.
func (s *sim) lieOnRx() {
	b, r := &s.back, s.rnd
	b.lied = true
	style := r.IntN(4) // 3: anything goes
	n := b.free(s)
	if n > 0 && r.IntN(2) == 0 {
		n = 1 + r.IntN(n)
	}
	if r.IntN(64) == 0 {
		n += 1 + r.IntN(300)
	}
	more := uint8(netif.ExtraMore)
	if style != 3 {
		more = 0
	}
	left, extra := 0, false // slots of the frame at hand; an extra is next
	for i := range n {
		var slot [8]byte
		binary.LittleEndian.PutUint64(slot[:], r.Uint64())
		switch {
		case extra:
			extra = oddExtra(r, &slot, more)
		case style == 3 && r.IntN(2) == 0:
			slot[4] &= 0x0f // flags
		default:
			if left == 0 {
				left = 1 + r.IntN(4)*r.IntN(8)
			}
			left--
			flags := uint16(slot[4]) & (netif.RxCsumBlank | netif.RxDataValidated)
			if extra = style != 0 && r.IntN(4) == 0; extra {
				flags |= netif.RxExtraInfo
			}
			if left > 0 && i < n-2 {
				flags |= netif.RxMoreData
			}
			binary.LittleEndian.PutUint16(slot[2:], oddOffset(r))
			binary.LittleEndian.PutUint16(slot[4:], flags)
			binary.LittleEndian.PutUint16(slot[6:], uint16(oddSize(r)))
		}
		if i < 8 && r.IntN(4) == 0 {
			s.frameInto(b.buffer(s, 0))
		}
		b.rx.lied[b.rx.rsp&255] = true
		b.rx.put(slot[:])
		s.figures.Lied++
	}
	b.rx.publish()
}

// oddExtra makes an extra, and tells whether another one follows.
func oddExtra(r *rand.Rand, slot *[8]byte, more uint8) bool {
	if r.IntN(4) != 0 {
		e := netif.NewGSO(uint16(r.IntN(2000)), netif.GSOType(r.IntN(4)))
		*slot = e.Bytes()
	} else {
		slot[0] &= 7
	}
	slot[1] = byte(r.Uint32()) & more
	return slot[1]&netif.ExtraMore != 0
}

func oddOffset(r *rand.Rand) uint16 {
	switch r.IntN(16) {
	case 0:
		return netif.PageSize
	case 1:
		return 0xffff
	case 2:
		return netif.PageSize - 1
	case 3:
		return uint16(r.Uint32())
	case 4, 5:
		return uint16(r.IntN(netif.PageSize))
	}
	return 0
}

func oddSize(r *rand.Rand) int16 {
	switch r.IntN(16) {
	case 0:
		return 0
	case 1:
		return 13
	case 2:
		return int16(r.Uint32())
	case 3:
		return netif.PageSize + 1
	case 4:
		return 0x7fff
	case 5:
		return -1
	case 6, 7, 8:
		return netif.PageSize
	}
	return int16(r.IntN(netif.PageSize))
}

// lieInWords writes what it likes into the words of a ring. An rsp_prod that is not too far
// ahead makes responses of what lies in the slots.
func (s *sim) lieInWords() {
	b, r := &s.back, s.rnd
	b.lied = true
	ring, state := &b.tx, &s.txSt.ring
	if r.IntN(2) == 0 {
		ring, state = &b.rx, &s.rxSt.ring
	}
	values := []uint32{0, 1, 0xffffffff, 0x80000000, ring.rsp - 1, ring.rsp + 1, state.Published, state.Published + 1,
		state.RspCons - 1, state.RspCons + 256, r.Uint32(), ring.rsp + uint32(r.IntN(300))}
	v := values[r.IntN(len(values))]
	switch r.IntN(6) {
	case 0:
		ring.word(wordReqProd, v)
	case 1:
		ring.word(wordRspEvent, v)
	case 2:
		ring.word(16+4*r.IntN(12), v) // private words and padding
	case 3:
		ring.word(wordReqEvent, v)
	default:
		for i := ring.rsp; i != v && i-ring.rsp < 256; i++ {
			ring.lied[i&255] = true
			s.figures.Lied++
		}
		if v-ring.rsp <= 256 {
			ring.rsp = v
		}
		ring.word(wordRspProd, v)
	}
}

// lieInPages rewrites buffers, whoever is at work with them.
func (s *sim) lieInPages() {
	for range 1 + s.rnd.IntN(8) {
		id := s.rnd.IntN(s.maps)
		s.frameInto(s.pages.rx.Bytes()[id*xen.PageSize : (id+1)*xen.PageSize])
	}
}

// lieOverRing writes over a part of a ring's slots.
func (s *sim) lieOverRing() {
	b, r := &s.back, s.rnd
	b.lied = true
	ring := &b.tx
	if r.IntN(2) == 0 {
		ring = &b.rx
	}
	at := 64 + r.IntN(xen.PageSize-64)
	n := min(1+r.IntN(256), xen.PageSize-at)
	from := r.IntN(len(noise) - n)
	copy(ring.page[at:], noise[from:from+n])
	for i := (at - 64) / ring.slot; i <= min((at+n-65)/ring.slot, 255); i++ {
		ring.lied[i] = true
		s.figures.Lied++
	}
}

// frameInto puts the beginning of some frame into a page, with a few bytes changed, or noise.
func (s *sim) frameInto(page []byte) {
	r := s.rnd
	if r.IntN(8) == 0 {
		from := r.IntN(len(noise) - len(page))
		copy(page, noise[from:])
		return
	}
	f := corpus[r.IntN(len(corpus))].read[tap.VirtioHeaderSize:]
	copy(page, f)
	for range r.IntN(4) {
		if v := byte(r.Uint32()); v != poison {
			page[r.IntN(80)] = v
		}
	}
}
