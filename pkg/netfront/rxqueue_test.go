package netfront

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// rxRig is an rxQueue between a backend and a place for frames.
type rxRig struct {
	t      testing.TB
	grants *heapGrants
	q      *rxQueue
	back   *ring.Back[netif.RxSlot]
	out    *sink
}

func newRxRig(t testing.TB, maps int) *rxRig {
	t.Helper()
	r := &rxRig{t: t, grants: newHeapGrants(), out: &sink{}}
	tag, slab, page := testDMA(t, r.grants, false, maps)
	var err error
	if r.q, err = newRxQueue(new(rxState), page, tag, slab, r.out, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if r.back, err = ring.AttachBack[netif.RxSlot](page); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.q.pool.Check(); err != nil {
			t.Error(err)
		}
		if err := r.q.close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// put puts one response, with data at offset of its page.
func (r *rxRig) put(flags uint16, offset int, data []byte) {
	req := netif.ParseRxRequest(r.back.Request(0))
	r.back.Consume(1)
	copy(r.grants.page(req.Ref)[offset:], data)
	s := netif.RxResponse{ID: req.ID, Offset: uint16(offset), Flags: flags, Status: int16(len(data))}.Slot()
	r.back.Put(&s)
}

func (r *rxRig) raw(rsp netif.RxResponse) {
	r.back.Consume(1)
	s := rsp.Slot()
	r.back.Put(&s)
}

func (r *rxRig) extra(e netif.Extra) {
	r.back.Consume(1)
	s := netif.RxSlot(e.Bytes())
	r.back.Put(&s)
}

// send sends a frame as netback does: pages filled from offset on in the first slot.
func (r *rxRig) send(flags uint16, gso *netif.Extra, offset int, frame []byte) {
	for first := true; len(frame) > 0; first = false {
		n := min(len(frame), netif.PageSize-offset)
		f := uint16(0)
		if first {
			f = flags
			if gso != nil {
				f |= netif.RxExtraInfo
			}
		}
		if n < len(frame) {
			f |= netif.RxMoreData
		}
		r.put(f, offset, frame[:n])
		if first && gso != nil {
			r.extra(*gso)
		}
		frame, offset = frame[n:], 0
	}
}

// service lets the queue work until it is done, and checks that all its maps are
// posted again.
func (r *rxRig) service() {
	r.t.Helper()
	r.back.Push()
	for {
		more, err := r.q.service()
		if err != nil {
			r.t.Fatal(err)
		}
		if !more {
			break
		}
	}
	if c := r.q.pool.Counts(); c.InFlight != c.Created {
		r.t.Fatalf("maps not posted again: %+v", c)
	}
	n, err := r.back.Requests()
	if err != nil {
		r.t.Fatal(err)
	}
	if want := uint32(r.q.slab.Pages()) - r.q.partial; n != want {
		r.t.Fatalf("%d requests on the ring, want %d", n, want)
	}
}

func TestRxEveryFrameSizeArrivesWhole(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 97
	}
	r := newRxRig(t, fullMaps)
	src := patterned(netif.MaxTxSize, 9)
	for n := netif.MinFirst; n <= netif.MaxTxSize; n += step {
		for _, offset := range []int{0, 2, 4000} {
			if offset+n > 17*netif.PageSize {
				continue
			}
			r.send(0, nil, offset, src[:n])
			r.service()
			if len(r.out.frames) != 1 || !bytes.Equal(r.out.frames[0][tap.VirtioHeaderSize:], src[:n]) {
				t.Fatalf("size %d at %d: %d frames", n, offset, len(r.out.frames))
			}
			r.out.frames = r.out.frames[:0]
		}
	}
}

// part puts a slot that says size, whatever it has.
func (r *rxRig) part(flags uint16, offset, size int, data []byte) {
	req := netif.ParseRxRequest(r.back.Request(0))
	r.back.Consume(1)
	copy(r.grants.page(req.Ref)[offset:], data)
	s := netif.RxResponse{ID: req.ID, Offset: uint16(offset), Flags: flags, Status: int16(size)}.Slot()
	r.back.Put(&s)
}

// Mirage's backend up to 2.1.7 writes the whole frame's size into the first of several slots.
func TestFrameWhoseFirstSlotHasTheWholeSizeIsTakenWhereItAddsUp(t *testing.T) {
	const more = netif.RxMoreData
	src := patterned(3*netif.PageSize, 9)
	for _, c := range []struct {
		name          string
		flags         uint16
		offset, whole int
		rest          []int // sizes of the slots behind the first
		taken         bool
	}{
		{"two pages", more, 0, 4097, []int{1}, true},
		{"three pages", more, 0, 9000, []int{4096, 808}, true},
		{"not from the page's beginning", more, 2, 4094 + 500, []int{500}, true},
		{"a byte too few behind", more, 0, 4097, []int{0}, false},
		{"a byte too many behind", more, 0, 4097, []int{2}, false},
		{"nothing behind", 0, 0, 4097, nil, false},
		{"beyond its page", more, 4095, 4097, []int{4096}, true},
		{"behind its page", more, 4096, 4097, []int{4096}, false},
		{"far behind its page", more, 65535, 4097, []int{4096}, false},
		{"with an extra", more | netif.RxExtraInfo, 0, 4097, []int{1}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRxRig(t, fullMaps)
			first := max(0, netif.PageSize-c.offset)
			if c.offset < netif.PageSize {
				r.part(c.flags, c.offset, c.whole, src[:first])
			} else {
				r.raw(netif.RxResponse{Offset: uint16(c.offset), Flags: c.flags, Status: int16(c.whole)})
			}
			if c.flags&netif.RxExtraInfo != 0 {
				r.extra(netif.NewGSO(1448, netif.GSOTCPv4))
			}
			at := first
			for i, n := range c.rest {
				flags := uint16(more)
				if i == len(c.rest)-1 {
					flags = 0
				}
				r.part(flags, 0, n, src[at:at+n])
				at += n
			}
			r.part(0, 0, 60, src[:60]) // the next frame, in any case
			r.service()
			want := 1
			if c.taken {
				want = 2
			}
			if len(r.out.frames) != want {
				t.Fatalf("%d frames, want %d", len(r.out.frames), want)
			}
			if f := r.out.frames[0][tap.VirtioHeaderSize:]; c.taken && !bytes.Equal(f, src[:c.whole]) {
				t.Errorf("the frame came as %d other bytes, want %d", len(f), c.whole)
			}
			if n := r.q.own[cDropMalformed]; (n == 0) != c.taken {
				t.Errorf("%d drops", n)
			}
		})
	}
}

func TestRxKeepsOrderOverBatches(t *testing.T) {
	for _, maps := range []int{minMaps, 100, fullMaps} {
		r := newRxRig(t, maps)
		rnd := rand.New(rand.NewPCG(5, 6))
		var want [][]byte
		for i := range 2000 {
			n := netif.MinFirst + rnd.IntN(300)
			if rnd.IntN(20) == 0 {
				n = 9000 + rnd.IntN(50000)
			}
			f := patterned(n, uint64(i))
			if free, _ := r.back.Requests(); int(free) <= pages(n) {
				r.service()
			}
			r.send(0, nil, 0, f)
			want = append(want, f)
		}
		r.service()
		if len(r.out.frames) != len(want) {
			t.Fatalf("%d maps: %d of %d frames", maps, len(r.out.frames), len(want))
		}
		for i := range want {
			if !bytes.Equal(r.out.frames[i][tap.VirtioHeaderSize:], want[i]) {
				t.Fatalf("%d maps: frame %d was changed or moved", maps, i)
			}
		}
	}
}

func TestRxFrameWhoseEndComesLaterIsWaitedFor(t *testing.T) {
	r := newRxRig(t, fullMaps)
	f := patterned(6000, 1)
	r.put(netif.RxMoreData, 0, f[:4096])
	r.service()
	if len(r.out.frames) != 0 || r.q.partial != 1 {
		t.Fatalf("%d frames, partial %d", len(r.out.frames), r.q.partial)
	}
	if e := r.q.ring.Header().RspEvent; e != r.q.ring.Consumed()+2 {
		t.Fatalf("rsp_event %d: the queue would spin on half a frame", e)
	}
	r.put(0, 0, f[4096:])
	r.service()
	if len(r.out.frames) != 1 || !bytes.Equal(r.out.frames[0][tap.VirtioHeaderSize:], f) {
		t.Fatal("frame lost or changed")
	}
}

func TestRxHeaderIsDerivedFromTheFrame(t *testing.T) {
	frame := tcpFrame(20000)
	gso := netif.NewGSO(1448, netif.GSOTCPv4)
	tests := map[string]struct {
		flags uint16
		gso   *netif.Extra
		frame []byte
		want  tap.VirtioHeader
	}{
		"plain":                  {0, nil, frame, tap.VirtioHeader{}},
		"csum_blank":             {netif.RxCsumBlank | netif.RxDataValidated, nil, frame, tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, HdrLen: 54, CsumStart: 34, CsumOffset: 16}},
		"gso":                    {netif.RxCsumBlank | netif.RxDataValidated, &gso, frame, tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, GSOType: tap.GSOTCPv4, GSOSize: 1448, HdrLen: 54, CsumStart: 34, CsumOffset: 16}},
		"gso without csum_blank": {0, &gso, frame, tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, GSOType: tap.GSOTCPv4, GSOSize: 1448, HdrLen: 54, CsumStart: 34, CsumOffset: 16}},
		"tagged":                 {netif.RxCsumBlank, nil, tagged(frame), tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, HdrLen: 58, CsumStart: 38, CsumOffset: 16}},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRxRig(t, fullMaps)
			r.send(c.flags, c.gso, 0, c.frame)
			r.service()
			if len(r.out.frames) != 1 {
				t.Fatalf("%d frames", len(r.out.frames))
			}
			got, _ := tap.ParseVirtioHeader(r.out.frames[0])
			if got != c.want {
				t.Fatalf("got %+v, want %+v", got, c.want)
			}
			if !bytes.Equal(r.out.frames[0][tap.VirtioHeaderSize:], c.frame) {
				t.Fatal("frame changed")
			}
		})
	}
}

func TestRxBadSlotsSpoilTheirFrameAndGoBackOnTheRing(t *testing.T) {
	good := patterned(2000, 2)
	gso := func(size uint16, typ netif.GSOType) *netif.Extra { e := netif.NewGSO(size, typ); return &e }
	tests := map[string]struct {
		put  func(r *rxRig)
		drop counter
	}{
		"negative status":        {func(r *rxRig) { r.raw(netif.RxResponse{Status: -1}) }, cDropBackendError},
		"grant status":           {func(r *rxRig) { r.raw(netif.RxResponse{Status: -9}) }, cDropBackendError},
		"over the page's end":    {func(r *rxRig) { r.raw(netif.RxResponse{Offset: 4000, Status: 97}) }, cDropMalformed},
		"offset out of the page": {func(r *rxRig) { r.raw(netif.RxResponse{Offset: 0xffff, Status: 1}) }, cDropMalformed},
		"status over a page":     {func(r *rxRig) { r.raw(netif.RxResponse{Status: 4097}) }, cDropMalformed},
		"empty":                  {func(r *rxRig) { r.raw(netif.RxResponse{}) }, cDropMalformed},
		"13 bytes":               {func(r *rxRig) { r.raw(netif.RxResponse{Status: 13}) }, cDropMalformed},
		"bad slot in the middle": {func(r *rxRig) {
			r.put(netif.RxMoreData, 0, good)
			r.raw(netif.RxResponse{Status: -1, Flags: netif.RxMoreData})
			r.put(0, 0, good)
		}, cDropBackendError},
		"too many slots": {func(r *rxRig) {
			for range rxSlots {
				r.put(netif.RxMoreData, 0, good[:100])
			}
			r.put(0, 0, good)
		}, cDropSlots},
		"over 65535 bytes": {func(r *rxRig) {
			for range 16 {
				r.put(netif.RxMoreData, 0, make([]byte, 4096))
			}
			r.put(0, 0, good)
		}, cDropMalformed},
		"unknown extra":         {func(r *rxRig) { r.send(0, &netif.Extra{Type: 77}, 0, good) }, cDropMalformed},
		"extra of type none":    {func(r *rxRig) { r.send(0, &netif.Extra{}, 0, good) }, cDropMalformed},
		"gso size 0":            {func(r *rxRig) { r.send(netif.RxCsumBlank, gso(0, netif.GSOTCPv4), 0, tcpFrame(9000)) }, cDropMalformed},
		"gso type unknown":      {func(r *rxRig) { r.send(netif.RxCsumBlank, gso(1448, 9), 0, tcpFrame(9000)) }, cDropMalformed},
		"gso v6 on v4":          {func(r *rxRig) { r.send(netif.RxCsumBlank, gso(1448, netif.GSOTCPv6), 0, tcpFrame(9000)) }, cDropMalformed},
		"gso on something else": {func(r *rxRig) { r.send(netif.RxCsumBlank, gso(1448, netif.GSOTCPv4), 0, good) }, cDropMalformed},
		"csum_blank without IP": {func(r *rxRig) { r.send(netif.RxCsumBlank, nil, 0, good) }, cDropMalformed},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRxRig(t, fullMaps)
			c.put(r)
			r.send(0, nil, 0, good)
			r.service()
			if n := r.q.counters.own[c.drop]; n != 1 {
				t.Errorf("%s counted %d times", counterNames[c.drop], n)
			}
			if len(r.out.frames) != 1 || !bytes.Equal(r.out.frames[0][tap.VirtioHeaderSize:], good) {
				t.Fatal("the good frame behind the bad one was lost")
			}
		})
	}
}

func TestRxImpossibleProducerAndEndlessExtrasBreakTheQueue(t *testing.T) {
	hostile := map[string]func(r *rxRig){
		"rsp_prod too far": func(r *rxRig) { binary.LittleEndian.PutUint32(r.ringPage()[8:], 257) },
		"rsp_prod back":    func(r *rxRig) { binary.LittleEndian.PutUint32(r.ringPage()[8:], 0xfffffff0) },
		"endless extras": func(r *rxRig) {
			r.raw(netif.RxResponse{Status: 100, Flags: netif.RxExtraInfo})
			for range 200 {
				r.extra(netif.Extra{Type: netif.ExtraGSO, Flags: netif.ExtraMore})
			}
			r.back.Push()
		},
	}
	for name, put := range hostile {
		t.Run(name, func(t *testing.T) {
			r := newRxRig(t, fullMaps)
			put(r)
			if _, err := r.q.service(); !errors.Is(err, ErrViolation) {
				t.Fatalf("error %v, want a violation", err)
			}
			if err := r.q.pool.Check(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func (r *rxRig) ringPage() []byte { return r.grants.page(uint32(r.grants.next - 1)) }

func TestRxFrameThatTheTapRefusesIsCountedAndNothingElse(t *testing.T) {
	r := newRxRig(t, fullMaps)
	r.out.fail = -int32(unix.EIO)
	for i := range 40 {
		r.send(0, nil, 0, patterned(500, uint64(i)))
	}
	r.service()
	if n := r.q.counters.own[cDropTapError]; n != 40 {
		t.Fatalf("%d drops counted", n)
	}
	r.out.fail = 0
	r.send(0, nil, 0, patterned(500, 1))
	r.service()
	if len(r.out.frames) != 1 {
		t.Fatal("the queue did not go on")
	}
}

func TestRxServiceAllocatesNothing(t *testing.T) {
	for _, size := range []int{60, 1500, 60000} {
		r := newRxRig(t, fullMaps)
		frame := make([]byte, size)
		r.q.out = discard{}
		n := testing.AllocsPerRun(200, func() {
			for range 4 {
				r.send(0, nil, 0, frame)
			}
			r.back.Push()
			if _, err := r.q.service(); err != nil {
				t.Fatal(err)
			}
			r.q.publish()
		})
		if n != 0 {
			t.Errorf("%d bytes: %v allocations for 4 frames", size, n)
		}
	}
}

type discard struct{}

func (discard) Write(frames [][]unix.Iovec, res []int32) error {
	clear(res[:len(frames)])
	return nil
}
