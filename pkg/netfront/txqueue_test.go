package netfront

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// txRig is a txQueue between a queue of reads and a backend that checks what
// netback would.
type txRig struct {
	t        testing.TB
	grants   *heapGrants
	in       *fifo
	q        *txQueue
	back     *ring.Back[netif.TxSlot]
	notified int
	got      []txGot
	open     []netif.TxResponse // responses that are not given yet
}

type txGot struct {
	frame []byte
	flags uint16
	gso   *netif.Extra
}

func newTxRig(t testing.TB, f Features, maps int) *txRig {
	t.Helper()
	r := &txRig{t: t, grants: newHeapGrants(), in: &fifo{}}
	tag, slab, page := testDMA(t, r.grants, true, maps)
	var err error
	mem, err := newTxMemory()
	if err != nil {
		t.Fatal(err)
	}
	if r.q, err = newTxQueue(mem, page, tag, slab, r.in, f, func() error { r.notified++; return nil }); err != nil {
		t.Fatal(err)
	}
	if r.back, err = ring.AttachBack[netif.TxSlot](page); err != nil {
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

// feed queues a frame without anything to offload.
func (r *txRig) feed(v tap.VirtioHeader, frame []byte) {
	b := make([]byte, tap.VirtioHeaderSize, tap.VirtioHeaderSize+len(frame))
	v.Put(b)
	r.in.frames = append(r.in.frames, append(b, frame...))
	r.q.tapReady = true
}

// service runs the queue until it has nothing to do.
func (r *txRig) service() {
	r.t.Helper()
	for {
		more, err := r.q.service()
		if err != nil {
			r.t.Fatal(err)
		}
		if err := r.q.pool.Check(); err != nil {
			r.t.Fatal(err)
		}
		if !more {
			return
		}
	}
}

// take consumes what is on the ring, as netback does, with its fatal checks.
func (r *txRig) take() {
	r.t.Helper()
	n, err := r.back.Requests()
	if err != nil {
		r.t.Fatal(err)
	}
	for i := uint32(0); i < n; {
		first := netif.ParseTxRequest(r.back.Request(i))
		i++
		g := txGot{flags: first.Flags &^ (netif.TxMoreData | netif.TxExtraInfo)}
		extras := 0
		for more := first.Flags&netif.TxExtraInfo != 0; more; i++ {
			if i >= n {
				r.t.Fatal("extra chain runs past req_prod")
			}
			s := r.back.Request(i)
			e, err := netif.ParseExtra([8]byte(s[:8]))
			if err != nil {
				r.t.Fatal(err)
			}
			g.gso = &e
			more = e.Flags&netif.ExtraMore != 0
			extras++
		}
		slots := []netif.TxRequest{first}
		rest := int(first.Size)
		for last := first; last.Flags&netif.TxMoreData != 0; i++ {
			if i >= n {
				r.t.Fatal("frame runs past req_prod")
			}
			last = netif.ParseTxRequest(r.back.Request(i))
			slots = append(slots, last)
			rest -= int(last.Size)
		}
		if len(slots)+extras > netif.SlotsMin {
			r.t.Fatalf("frame of %d slots and %d extras", len(slots), extras)
		}
		if rest < netif.MinFirst {
			r.t.Fatalf("first slot has %d bytes", rest)
		}
		slots[0].Size = uint16(rest)
		for _, s := range slots {
			if int(s.Offset)+int(s.Size) > netif.PageSize {
				r.t.Fatalf("slot crosses its page: offset %d, size %d", s.Offset, s.Size)
			}
			page := r.grants.page(s.Ref)
			if page == nil {
				r.t.Fatalf("slot with grant %d, which does not exist", s.Ref)
			}
			g.frame = append(g.frame, page[s.Offset:int(s.Offset)+int(s.Size)]...)
			r.open = append(r.open, netif.TxResponse{ID: s.ID})
		}
		for range extras {
			r.open = append(r.open, netif.TxResponse{Status: netif.StatusNull})
		}
		if len(g.frame) != int(first.Size) {
			r.t.Fatalf("slots of %d bytes, first says %d", len(g.frame), first.Size)
		}
		r.got = append(r.got, g)
	}
	r.back.Consume(n)
}

// respond gives n of the open responses, shuffled if rnd is not nil.
func (r *txRig) respond(n int, rnd *rand.Rand) {
	if rnd != nil {
		rnd.Shuffle(len(r.open), func(i, j int) { r.open[i], r.open[j] = r.open[j], r.open[i] })
	}
	for _, rsp := range r.open[:n] {
		s := rsp.Slot()
		r.back.Put(&s)
	}
	r.open = r.open[n:]
	r.back.Push()
}

func patterned(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	if n > 13 {
		b[12], b[13] = 0x88, 0xb5 // local experimental: not IP
	}
	return b
}

func TestTxEveryFrameSizeArrivesWhole(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 97
	}
	for _, inPlace := range []bool{false, true} {
		t.Run(fmt.Sprintf("inPlace=%v", inPlace), func(t *testing.T) {
			r := newTxRig(t, AllFeatures(), fullMaps)
			src := patterned(netif.MaxTxSize, 1)
			for n := netif.MinFirst; n <= netif.MaxTxSize; n += step {
				r.q.inPlace = inPlace
				r.feed(tap.VirtioHeader{}, src[:n])
				r.service()
				r.take()
				r.respond(len(r.open), nil)
				if len(r.got) != 1 || !bytes.Equal(r.got[0].frame, src[:n]) {
					t.Fatalf("size %d: got %d frames", n, len(r.got))
				}
				r.got = r.got[:0]
			}
		})
	}
}

func TestTxWrongGuessOfTheModeCutsNothing(t *testing.T) {
	r := newTxRig(t, AllFeatures(), fullMaps)
	rnd := rand.New(rand.NewPCG(1, 2))
	var want [][]byte
	for i := range 400 {
		n := netif.MinFirst + rnd.IntN(200)
		if rnd.IntN(3) == 0 {
			n = netif.MaxTxSize - rnd.IntN(2000)
		}
		f := patterned(n, uint64(i))
		want = append(want, f)
		r.feed(tap.VirtioHeader{}, f)
	}
	for len(r.got) < len(want) {
		r.service()
		r.take()
		if len(r.open) == 0 {
			t.Fatalf("stuck after %d of %d frames", len(r.got), len(want))
		}
		r.respond(1+rnd.IntN(len(r.open)), rnd)
	}
	for i, f := range want {
		if !bytes.Equal(r.got[i].frame, f) {
			t.Fatalf("frame %d of %d bytes was changed, cut or moved", i, len(f))
		}
	}
}

func TestTxNoPageIsReusedBeforeItsResponse(t *testing.T) {
	r := newTxRig(t, AllFeatures(), 64)
	for i := range 200 {
		r.feed(tap.VirtioHeader{}, patterned(1000, uint64(i)))
	}
	r.service()
	r.take()
	before := len(r.got)
	if before == 0 || before > 64 {
		t.Fatalf("%d frames on the ring with 64 maps", before)
	}
	// What the backend holds must not change while nothing is answered.
	r.q.tapReady = true
	r.service()
	r.take()
	if len(r.got) != before {
		t.Fatalf("%d more frames without a map", len(r.got)-before)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for len(r.got) < 200 {
		if len(r.open) == 0 {
			t.Fatalf("stuck after %d frames", len(r.got))
		}
		r.respond(1+rnd.IntN(len(r.open)), rnd)
		r.service()
		r.take()
	}
	for i, g := range r.got {
		if !bytes.Equal(g.frame, patterned(1000, uint64(i))) {
			t.Fatalf("frame %d was changed or moved", i)
		}
	}
}

func TestTxParkedQueueAsksForTheResponsesItNeeds(t *testing.T) {
	r := newTxRig(t, AllFeatures(), 64)
	for i := range 100 {
		r.feed(tap.VirtioHeader{}, patterned(60, uint64(i)))
	}
	r.service()
	r.take()
	if r.q.counters.own[cParked] == 0 {
		t.Fatal("the queue did not park")
	}
	event := r.q.ring.Header().RspEvent
	if event < 1 || event > 64 {
		t.Fatalf("rsp_event %d with 64 requests out", event)
	}
	s := netif.TxResponse{ID: r.open[0].ID}.Slot()
	notified := false
	for range event {
		s = r.open[0].Slot()
		r.open = r.open[1:]
		r.back.Put(&s)
		notified = r.back.Push()
	}
	if !notified {
		t.Fatal("the response that was asked for raises no event")
	}
}

func TestTxHostileResponsesBreakTheQueueAndNothingElse(t *testing.T) {
	responses := map[string]func(r *txRig){
		"id out of range":  func(r *txRig) { r.raw(netif.TxResponse{ID: 256}) },
		"highest id":       func(r *txRig) { r.raw(netif.TxResponse{ID: 0xffff}) },
		"id not in flight": func(r *txRig) { r.raw(netif.TxResponse{ID: 200}) },
		"id twice": func(r *txRig) {
			r.raw(netif.TxResponse{ID: r.open[0].ID})
			r.raw(netif.TxResponse{ID: r.open[0].ID})
		},
		"NULL without extra": func(r *txRig) { r.raw(netif.TxResponse{Status: netif.StatusNull}) },
		"rsp_prod too far":   func(r *txRig) { binary.LittleEndian.PutUint32(r.ringPage()[8:], 1000) },
		"rsp_prod back":      func(r *txRig) { binary.LittleEndian.PutUint32(r.ringPage()[8:], 0xffffffff) },
	}
	for name, hostile := range responses {
		t.Run(name, func(t *testing.T) {
			r := newTxRig(t, AllFeatures(), fullMaps)
			for i := range 3 {
				r.feed(tap.VirtioHeader{}, patterned(100, uint64(i)))
			}
			r.service()
			r.take()
			hostile(r)
			if _, err := r.q.service(); !errors.Is(err, ErrViolation) {
				t.Fatalf("error %v, want a violation", err)
			}
			if err := r.q.pool.Check(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func (r *txRig) raw(rsp netif.TxResponse) {
	s := rsp.Slot()
	r.back.Put(&s)
	r.back.Push()
}

// ringPage is the tx ring's page: the only one alone in its allocation.
func (r *txRig) ringPage() []byte { return r.grants.page(uint32(r.grants.next - 1)) }

func TestTxGSOGoesOutWithItsExtra(t *testing.T) {
	for _, size := range []int{3000, 20000, 65535} {
		r := newTxRig(t, AllFeatures(), fullMaps)
		frame := tcpFrame(size)
		v := tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, GSOType: tap.GSOTCPv4, HdrLen: 54, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
		r.feed(v, frame)
		r.feed(v, frame) // the second one in place
		r.service()
		r.take()
		if len(r.got) != 2 {
			t.Fatalf("%d frames", len(r.got))
		}
		for _, g := range r.got {
			if g.gso == nil || g.flags != netif.TxCsumBlank|netif.TxDataValidated || !bytes.Equal(g.frame, frame) {
				t.Fatalf("size %d: extra %v, flags %#x", size, g.gso, g.flags)
			}
			if s, typ := g.gso.GSO(); s != 1448 || typ != netif.GSOTCPv4 {
				t.Fatalf("gso %d %d", s, typ)
			}
		}
		r.respond(len(r.open), nil)
		r.service()
		if n := r.q.pool.Free(); n != fullMaps {
			t.Fatalf("%d maps free after all responses", n)
		}
	}
}

func TestTxTaggedSuperFrameIsSegmentedThoughMapsRunOut(t *testing.T) {
	r := newTxRig(t, AllFeatures(), minMaps)
	frame := tagged(tcpFrame(65000))
	v := tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, GSOType: tap.GSOTCPv4, HdrLen: 58, GSOSize: 536, CsumStart: 38, CsumOffset: 16}
	r.feed(v, frame)
	payload := frame[58:]
	var got []byte
	for range 1000 {
		r.service()
		r.take()
		if len(r.open) == 0 {
			break
		}
		r.respond(len(r.open), nil)
	}
	for _, g := range r.got {
		if g.flags&netif.TxCsumBlank != 0 || g.gso != nil {
			t.Fatal("a tagged frame went out unfinished: netback drops it after OKAY")
		}
		if binary.BigEndian.Uint16(g.frame[12:]) != 0x8100 {
			t.Fatal("tag lost")
		}
		got = append(got, g.frame[58:]...)
	}
	if !bytes.Equal(got, payload) {
		t.Fatalf("%d bytes of payload in %d segments, want %d", len(got), len(r.got), len(payload))
	}
}

func TestTxChecksumIsFinishedOnceThoughTheFrameWaits(t *testing.T) {
	f := AllFeatures()
	f.Csum, f.CsumIPv6, f.GSOv4, f.GSOv6 = false, false, false, false
	r := newTxRig(t, f, minMaps)
	frame := tcpFrame(9000)
	v := tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, CsumStart: 34, CsumOffset: 16}
	for range 60 {
		r.feed(v, frame)
	}
	for len(r.got) < 60 {
		r.service()
		r.take()
		if len(r.open) == 0 {
			t.Fatalf("stuck after %d", len(r.got))
		}
		r.respond(len(r.open), nil)
	}
	want := bytes.Clone(frame)
	if err := tap.FinishChecksum(want, 34, 16); err != nil {
		t.Fatal(err)
	}
	for i, g := range r.got {
		if !bytes.Equal(g.frame, want) {
			t.Fatalf("frame %d has a wrong checksum", i)
		}
		if g.flags&netif.TxCsumBlank != 0 {
			t.Fatalf("flags %#x", g.flags)
		}
	}
}

func TestTxServiceAllocatesNothing(t *testing.T) {
	for _, size := range []int{60, 1500, 60000} {
		r := newTxRig(t, AllFeatures(), fullMaps)
		src := &repeat{frame: make([]byte, tap.VirtioHeaderSize+size)}
		r.q.in = src
		n := testing.AllocsPerRun(200, func() {
			src.left, r.q.tapReady = 8, true
			if _, err := r.q.service(); err != nil {
				t.Fatal(err)
			}
			answerAll(t, r)
			r.q.publish()
		})
		if n != 0 {
			t.Errorf("%d bytes: %v allocations for 8 frames", size, n)
		}
	}
}

// repeat is a frameReader of the same frame, left times.
type repeat struct {
	frame []byte
	left  int
}

func (s *repeat) Read(bufs [][]byte, n []int) (int, error) {
	for i := range bufs {
		if s.left == 0 {
			return i, nil
		}
		s.left--
		n[i] = copy(bufs[i], s.frame)
	}
	return len(bufs), nil
}

// answerAll answers every request in order.
func answerAll(t testing.TB, r *txRig) {
	n, err := r.back.Requests()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		req := netif.ParseTxRequest(r.back.Request(i))
		s := netif.TxResponse{ID: req.ID}.Slot()
		r.back.Put(&s)
	}
	r.back.Consume(n)
	r.back.Push()
}

// tcpFrame is an IPv4 TCP frame of n bytes whose checksum is the pseudo-header's sum.
func tcpFrame(n int) []byte {
	f := patterned(n, 7)
	copy(f[12:], []byte{8, 0, 0x45, 0, byte((n - 14) >> 8), byte(n - 14), 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(f[24:], ^tap.Checksum(f[14:34], 0))
	f[46], f[47] = 0x50, 0x10
	binary.BigEndian.PutUint16(f[50:], tap.PseudoHeaderSum(f[26:30], f[30:34], 6, n-34))
	return f
}

// tagged puts an 802.1Q tag into a frame.
func tagged(f []byte) []byte {
	return append(append(bytes.Clone(f[:12]), 0x81, 0, 0, 5), f[12:]...)
}

func TestTxCloseWithFramesInFlightFreesEveryPage(t *testing.T) {
	r := newTxRig(t, AllFeatures(), fullMaps)
	for i := range 20 {
		r.feed(tap.VirtioHeader{}, patterned(5000, uint64(i)))
	}
	r.service()
	if c := r.q.pool.Counts(); c.InFlight == 0 {
		t.Fatalf("nothing in flight: %+v", c)
	}
	// The rig's clean-up closes the queue and fails if that leaves anything.
}
