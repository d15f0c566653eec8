package netfront

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// captureOf records what a rig's queue does, and reads it without a goroutine.
type captureOf struct {
	t    testing.TB
	read captureReader
	sink *keeper
	q    *captureQueue
}

func newCaptureOf(t testing.TB, r *recording, dir Direction, config CaptureConfig) *captureOf {
	t.Helper()
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	c := &captureOf{t: t, sink: &keeper{}, q: &captureQueue{dir: dir, connection: &CaptureConnection{Number: 1}, ringSize: 256}}
	share := &capture{config: config, wake: make(chan struct{}, 1)}
	share.joinRing(&r.capture, c.q)
	c.read = captureReader{capture: share, sink: c.sink}
	return c
}

// frames returns what was captured since the last call.
func (c *captureOf) frames() []CapturedFrame {
	c.t.Helper()
	c.q.rec.publish() // as its worker does after every look
	if err := c.read.read(time.Now()); err != nil {
		c.t.Fatal(err)
	}
	f := c.sink.frames
	c.sink.frames = nil
	return f
}

// wantLost checks that one frame was captured, which was lost for cause.
func (c *captureOf) wantLost(cause string, data []byte, slots int) {
	c.t.Helper()
	f := c.frames()
	if len(f) != 1 || f[0].Lost != cause || !bytes.Equal(f[0].Data, data) || len(f[0].Slots) != slots {
		c.t.Errorf("got %+v, want one frame of %d bytes in %d slots lost to %s", f, len(data), slots, cause)
	}
}

func TestTxFramesLostHereAreCapturedWithTheCause(t *testing.T) {
	r := newTxRig(t, features(func(f *Features) { f.SG = false }), 64)
	c := newCaptureOf(t, &r.q.recording, Tx, CaptureConfig{})
	r.feed(tap.VirtioHeader{}, mark(10, 1)) // no Ethernet header
	r.service()
	c.wantLost("drop_malformed", mark(10, 1), 0)
	r.feed(tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, CsumStart: 2000, CsumOffset: 16}, mark(100, 2))
	r.service()
	c.wantLost("drop_malformed", mark(100, 2), 0)
	r.feed(tap.VirtioHeader{}, mark(5000, 3)) // without SG a frame is one slot
	r.service()
	c.wantLost("drop_too_big", mark(5000, 3), 0)
	f := c.q
	if f.frames != 3 || f.held != 0 {
		t.Errorf("%d frames, %d held", f.frames, f.held)
	}
}

func TestRxFramesLostHereAreCapturedWithTheCause(t *testing.T) {
	r := newRxRig(t, 64)
	c := newCaptureOf(t, &r.q.recording, Rx, CaptureConfig{})
	r.raw(netif.RxResponse{Status: netif.StatusError})
	r.service()
	c.wantLost("drop_backend_error", nil, 1)
	r.put(0, 0, mark(10, 1))
	r.service()
	c.wantLost("drop_malformed", mark(10, 1), 1)
	r.put(netif.RxMoreData, 0, mark(60, 2))
	r.raw(netif.RxResponse{Offset: 4000, Status: 100})
	r.service()
	c.wantLost("drop_malformed", mark(60, 2), 2)
	r.put(netif.RxExtraInfo, 0, mark(60, 3))
	r.extra(netif.Extra{Type: 99})
	r.service()
	c.wantLost("drop_malformed", mark(60, 3), 2)
	for i := range rxSlots + 1 {
		flags := uint16(netif.RxMoreData)
		if i == rxSlots {
			flags = 0
		}
		r.put(flags, 0, mark(60, 4))
	}
	r.service()
	c.wantLost("drop_slots", bytes.Repeat(mark(60, 4), rxSlots), rxSlots+1)
	r.out.fail = -5
	r.put(0, 7, mark(60, 5))
	r.put(0, 0, mark(80, 6))
	r.service()
	f := c.frames()
	if len(f) != 2 || f[0].Lost != "drop_tap_error" || f[1].Lost != "drop_tap_error" || f[0].Slots[0].Offset != 7 || !bytes.Equal(f[1].Data, mark(80, 6)) {
		t.Errorf("%+v", f)
	}
}

func TestFrameThatIsNotWholeYetIsCapturedOnce(t *testing.T) {
	r := newRxRig(t, 64)
	c := newCaptureOf(t, &r.q.recording, Rx, CaptureConfig{})
	frame := mark(6000, 1)
	r.put(netif.RxMoreData, 0, frame[:netif.PageSize])
	r.service()
	if f := c.frames(); len(f) != 0 {
		t.Errorf("%+v", f)
	}
	r.put(0, 0, frame[netif.PageSize:])
	r.service()
	if f := c.frames(); len(f) != 1 || !bytes.Equal(f[0].Data, frame) || len(f[0].Slots) != 2 {
		t.Errorf("%+v", f)
	}
}

// TestWorkerDoesNotAllocateWhileItIsCaptured also takes the worker through a full
// recorder.
func TestWorkerDoesNotAllocateWhileItIsCaptured(t *testing.T) {
	r := newRxRig(t, 64)
	r.q.out = taken{}
	c := newCaptureOf(t, &r.q.recording, Rx, CaptureConfig{Buffer: captureBufferMin})
	round := func() {
		for range benchFrames {
			respondFrame(r, 1500, 0)
		}
		r.back.Push()
		if _, err := r.q.service(); err != nil {
			t.Fatal(err)
		}
		r.q.publish()
	}
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if c.q.rec.dropped.Load() == 0 {
		t.Error("the recorder was never full")
	}
	s := newTxRig(t, AllFeatures(), 64)
	frame, _ := benchFrame(60000)
	src := &headOnly{frame: frame}
	s.q.in = src
	newCaptureOf(t, &s.q.recording, Tx, CaptureConfig{Buffer: captureBufferMin})
	round = func() {
		src.left, s.q.tapReady = 2, true
		for more := true; more; {
			var err error
			if more, err = s.q.service(); err != nil {
				t.Fatal(err)
			}
		}
		n, err := s.back.Requests()
		if err != nil {
			t.Fatal(err)
		}
		for i := uint32(0); i < n; i++ {
			req := netif.ParseTxRequest(s.back.Request(i))
			rsp := netif.TxResponse{ID: req.ID}.Slot()
			s.back.Put(&rsp)
			if req.Flags&netif.TxExtraInfo != 0 {
				i++
				rsp = netif.TxResponse{Status: netif.StatusNull}.Slot()
				s.back.Put(&rsp)
			}
		}
		s.back.Consume(n)
		s.back.Push()
		s.q.publish()
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s.q.rec.dropped.Load() == 0 {
		t.Error("the recorder was never full")
	}
}

// TestRecorderLosesNoResponseHoweverFullItIs lets a worker and a consumer of a small
// recorder take turns at random, and checks each frame that comes out.
func TestRecorderLosesNoResponseHoweverFullItIs(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	rec := &recorder{tx: true, snapLen: 300, entries: make([]captureEntry, 64), data: make([]byte, 2048), wake: make(chan struct{}, 1)}
	q := &captureQueue{dir: Tx, connection: &CaptureConnection{}, ringSize: 256, rec: rec}
	sink := &keeper{}
	reader := captureReader{capture: &capture{queues: []*captureQueue{q}}, sink: sink, connection: q.connection}
	type flight struct{ ids []uint16 }
	var free, kept []uint16
	for i := range 48 {
		free = append(free, uint16(i))
	}
	var flights []flight
	serial, dropped := 0, uint64(0)
	now := time.Now()
	for range 20_000 {
		switch k := rnd.IntN(10); {
		case k < 5 && len(free) >= 4: // a frame of 1 to 4 slots
			n := 1 + rnd.IntN(4)
			serial++
			var f flight
			for i := range n {
				f.ids = append(f.ids, free[i])
				rec.request(uint32(serial), netif.TxRequest{ID: free[i], Size: uint16(serial)})
				if i == 0 && n > 2 {
					rec.extra(uint32(serial), netif.NewGSO(uint16(serial), netif.GSOTCPv4).Bytes())
				}
			}
			free = free[n:]
			if rec.private(mark(20+rnd.IntN(500), serial), 0); rec.dropped.Load() != dropped {
				dropped++
			}
			flights = append(flights, f)
		case k < 8 && len(flights) > 0: // its responses, of one frame
			i := rnd.IntN(len(flights))
			for _, id := range flights[i].ids {
				rec.response(id, int16(id))
				kept = append(kept, id)
			}
			flights = slices.Delete(flights, i, i+1)
			rec.publish()
			free, kept = append(free, kept...), kept[:0]
		case k == 8:
			rec.publish()
		case k == 9 && rnd.IntN(4) == 0:
			if err := reader.read(now); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, f := range flights {
		for _, id := range f.ids {
			rec.response(id, int16(id))
		}
	}
	rec.publish()
	if err := reader.read(now); err != nil {
		t.Fatal(err)
	}
	if uint64(len(sink.frames))+dropped != uint64(serial) || dropped == 0 || q.held != 0 || rec.owed != 0 {
		t.Fatalf("%d frames and %d dropped of %d, %d held, %d owed", len(sink.frames), dropped, serial, q.held, rec.owed)
	}
	missed := uint64(0)
	for _, f := range sink.frames {
		missed += uint64(f.Missed)
		serial := f.Slots[0].Size
		whole := mark(f.Length, int(f.Slots[0].Index))
		if serial != int(uint16(f.Slots[0].Index)) || !bytes.Equal(f.Data, whole[:min(len(whole), 300)]) {
			t.Fatalf("%+v", f)
		}
		for _, s := range f.data() {
			if !s.Answered || s.Status != int16(s.ID) {
				t.Fatalf("%+v", f.Slots)
			}
		}
	}
	if missed += uint64(rec.missed); missed != dropped {
		t.Errorf("%d frames are said to be missing, of %d", missed, dropped)
	}
}

// BenchmarkCaptured is BenchmarkTxService and BenchmarkRxService while the queue is
// captured, with a reader that always has room: what a capture costs the worker.
func BenchmarkCaptured(b *testing.B) {
	for _, size := range []int{60, 1500, 60000} {
		frame, v := benchFrame(size)
		b.Run(fmt.Sprintf("tx/%d", size), func(b *testing.B) {
			r := newTxRig(b, AllFeatures(), fullMaps)
			src := &headOnly{frame: frame}
			r.q.in = src
			c := newCaptureOf(b, &r.q.recording, Tx, CaptureConfig{SnapLen: benchHead})
			report(b, &r.q.counters, func() {
				src.left, r.q.tapReady = benchFrames, true
				for more := true; more; {
					var err error
					if more, err = r.q.service(); err != nil {
						b.Fatal(err)
					}
				}
				answerFrames(b, r)
				r.q.publish()
				c.skip()
			})
		})
		b.Run(fmt.Sprintf("rx/%d", size), func(b *testing.B) {
			r := newRxRig(b, fullMaps)
			r.q.out = taken{}
			c := newCaptureOf(b, &r.q.recording, Rx, CaptureConfig{SnapLen: benchHead})
			pages := r.q.slab.Bytes()
			for i := 0; i < len(pages); i += netif.PageSize { // any page may be a frame's first
				copy(pages[i:], frame[tap.VirtioHeaderSize:][:min(size, benchHead)])
			}
			report(b, &r.q.counters, func() {
				for range benchFrames {
					respondFrame(r, size, v.GSOSize)
				}
				r.back.Push()
				for more := true; more; {
					var err error
					if more, err = r.q.service(); err != nil {
						b.Fatal(err)
					}
				}
				r.q.publish()
				c.skip()
			})
		})
	}
}

// skip reads what was published, and forgets it.
func (c *captureOf) skip() {
	r := c.q.rec
	head := r.head.Load()
	for i := r.tail.Load(); i != head; i++ {
		if e := r.at(i); e.kind == entryFrame {
			r.dataTail.Add(uint64(e.index))
		}
	}
	r.tail.Store(head)
}
