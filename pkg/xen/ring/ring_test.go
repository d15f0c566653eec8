package ring

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

type (
	slot8  [8]byte
	slot12 [12]byte
	slot16 [16]byte
)

func TestSizesAreThoseOfTheProtocol(t *testing.T) {
	if n := Size[slot12](); n != 256 {
		t.Errorf("tx ring has %d slots", n)
	}
	if n := Size[slot8](); n != 256 {
		t.Errorf("rx ring has %d slots", n)
	}
	if n := Size[slot16](); n != 128 {
		t.Errorf("control ring has %d slots", n)
	}
}

func newPair(t testing.TB) (*Front[slot12], *Back[slot12], []byte) {
	t.Helper()
	page := make([]byte, PageSize)
	for i := range page {
		page[i] = 0xee // what an earlier use left
	}
	f, err := NewFront[slot12](page, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := AttachBack[slot12](page)
	if err != nil {
		t.Fatal(err)
	}
	return f, b, page
}

func TestNewRingIsLaidOutAsTheHeaderSays(t *testing.T) {
	f, _, page := newPair(t)
	for off, want := range map[int]uint32{0: 0, 4: 1, 8: 0, 12: 1} {
		if got := binary.LittleEndian.Uint32(page[off:]); got != want {
			t.Errorf("word at %d is %d, want %d", off, got, want)
		}
	}
	for i, b := range page[16:] {
		if b != 0 {
			t.Fatalf("byte %d of a fresh ring is %#x: the peer would see what was there before", i+16, b)
		}
	}
	s := slot12{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	for range 3 {
		f.Put(&s)
	}
	if got := slot12(page[64+24 : 64+36]); got != s {
		t.Errorf("third slot is %v", got)
	}
}

func TestBadPagesAreRefused(t *testing.T) {
	if _, err := NewFront[slot12](make([]byte, 100), nil); err == nil {
		t.Error("short page accepted")
	}
	if _, err := NewFront[slot12](make([]byte, PageSize+8)[1:PageSize+1], nil); err == nil {
		t.Error("unaligned page accepted")
	}
	if _, err := AttachBack[slot12](nil); err == nil {
		t.Error("no page accepted")
	}
}

// The reference: RING_PUSH_REQUESTS_AND_CHECK_NOTIFY with 64-bit indices that never
// wrap.
func TestPassedMatchesTheMacroAcrossTheWrap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 100000 {
		from := uint64(0xffffff00) + rnd.Uint64N(512)
		to := from + rnd.Uint64N(257)
		event := from - 300 + rnd.Uint64N(900)
		want := event > from && event <= to
		if got := passed(uint32(event), uint32(from), uint32(to)); got != want {
			t.Fatalf("passed(%d, %d, %d) = %v", event, from, to, got)
		}
	}
}

func TestNotifyOnlyWhenAskedFor(t *testing.T) {
	f, b, _ := newPair(t)
	var s slot12
	f.Put(&s)
	if !f.Push() {
		t.Error("the first request raises no event, though req_event is 1")
	}
	f.Put(&s)
	if f.Push() {
		t.Error("event for a request nobody asked about")
	}
	b.Consume(2)
	if b.NotifyAfter(1) {
		t.Error("requests seen where there are none")
	}
	f.Put(&s)
	if !f.Push() {
		t.Error("no event for the request that was asked about")
	}
	if !b.NotifyAfter(1) {
		t.Error("the final check misses a request that came before it")
	}
	b.Consume(1)
	for range 3 {
		b.Put(&s)
	}
	if !b.Push() {
		t.Error("no event for the first response")
	}
	f.Consume(3)
	f.NotifyAfter(2)
	for i, want := range []bool{false, true} {
		f.Put(&s)
		f.Push()
		b.Consume(1)
		b.Put(&s)
		if got := b.Push(); got != want {
			t.Errorf("response %d after NotifyAfter(2): event %v", i+1, got)
		}
	}
}

func TestNothingIsPublishedBeforePush(t *testing.T) {
	f, b, _ := newPair(t)
	var s slot12
	for range 5 {
		f.Put(&s)
	}
	if n, _ := b.Requests(); n != 0 || f.Unpublished() != 5 {
		t.Fatalf("%d requests seen before the push, %d unpublished", n, f.Unpublished())
	}
	f.Push()
	if n, _ := b.Requests(); n != 5 || f.Unpublished() != 0 {
		t.Fatalf("%d requests after the push", n)
	}
}

func TestImpossibleProducersAreOverflows(t *testing.T) {
	f, b, page := newPair(t)
	var s slot12
	for range 3 {
		f.Put(&s)
	}
	f.Push()
	f.Put(&s) // not published: a response to it is a lie
	for _, prod := range []uint32{4, 257, 1 << 31, 0xffffffff} {
		atomic.StoreUint32(f.rspProd(), prod)
		if _, err := f.Responses(); !errors.Is(err, ErrOverflow) {
			t.Errorf("rsp_prod %d: error %v", prod, err)
		}
	}
	atomic.StoreUint32(f.rspProd(), 3)
	if n, err := f.Responses(); n != 3 || err != nil {
		t.Errorf("%d responses, %v", n, err)
	}
	for _, prod := range []uint32{257, 1 << 31, 0xffffffff} {
		binary.LittleEndian.PutUint32(page, prod)
		if _, err := b.Requests(); !errors.Is(err, ErrOverflow) {
			t.Errorf("req_prod %d: error %v", prod, err)
		}
	}
}

func TestBackendAttachesWhereTheLastOneStopped(t *testing.T) {
	f, b, page := newPair(t)
	var s slot12
	for range 10 {
		f.Put(&s)
	}
	f.Push()
	b.Consume(7) // three taken without an answer: the next backend takes them again
	for range 4 {
		b.Put(&s)
	}
	b.Push()
	next, err := AttachBack[slot12](page)
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := next.Requests(); n != 6 || next.Consumed() != 4 {
		t.Fatalf("%d requests from %d", n, next.Consumed())
	}
}

// Both ends run at full speed in two goroutines: everything arrives once and in
// order, and nobody sleeps for ever on a lost event. The page is heap memory, so
// that the race detector sees the slots.
func TestBothEndsAtOnceLoseNothing(t *testing.T) {
	f, b, _ := newPair(t)
	const total = 200000
	toBack, toFront := make(chan struct{}, 1), make(chan struct{}, 1)
	kick := func(c chan struct{}) {
		select {
		case c <- struct{}{}:
		default:
		}
	}
	done := make(chan error, 1)
	go func() {
		var next uint32
		for next < total {
			n, err := b.Requests()
			if err != nil {
				done <- err
				return
			}
			if n == 0 {
				if !b.NotifyAfter(1) {
					<-toBack
				}
				continue
			}
			for i := range n {
				s := b.Request(i)
				if got := binary.LittleEndian.Uint32(s[:]); got != next {
					done <- errors.New("request out of order")
					return
				}
				next++
			}
			b.Consume(n)
			for i := range n {
				var s slot12
				binary.LittleEndian.PutUint32(s[4:], next-n+i)
				b.Put(&s)
			}
			if b.Push() {
				kick(toFront)
			}
		}
		done <- nil
	}()
	var sent, got uint32
	for got < total {
		n, err := f.Responses()
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			s := f.Response(i)
			if id := binary.LittleEndian.Uint32(s[4:]); id != got {
				t.Fatalf("response %d, want %d", id, got)
			}
			got++
		}
		f.Consume(n)
		put := 0
		for f.Free() > 0 && sent < total && put < 20 {
			var s slot12
			binary.LittleEndian.PutUint32(s[:], sent)
			f.Put(&s)
			sent++
			put++
		}
		if put > 0 {
			if f.Push() {
				kick(toBack)
			}
		} else if n == 0 && got < total && !f.NotifyAfter(1) {
			<-toFront
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func BenchmarkSlotLife(b *testing.B) {
	front, back, _ := newPair(b)
	var s slot12
	b.ReportAllocs()
	for b.Loop() {
		for range 16 {
			front.Put(&s)
		}
		front.Push()
		n, _ := back.Requests()
		for i := range n {
			s = back.Request(i)
			back.Put(&s)
		}
		back.Consume(n)
		back.Push()
		n, _ = front.Responses()
		for i := range n {
			s = front.Response(i)
		}
		front.Consume(n)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/16, "ns/slot")
}

// The peer can write the whole page. What this end knows of its own side it keeps to
// itself.
func TestWordsOfTheFrontendAreNeverReadBack(t *testing.T) {
	f, _, page := newPair(t)
	s := slot12{1}
	for range 5 {
		f.Put(&s)
	}
	f.Push()
	binary.LittleEndian.PutUint32(page[8:], 3) // rsp_prod
	for off := range page {
		if off < 8 || off >= 12 {
			page[off] = 0xa5
		}
	}
	if n, err := f.Responses(); n != 3 || err != nil {
		t.Fatalf("%d responses, %v", n, err)
	}
	if f.Produced() != 5 || f.Free() != f.Size()-5 || f.Unpublished() != 0 {
		t.Errorf("produced %d, free %d", f.Produced(), f.Free())
	}
	f.Consume(3)
	f.Put(&s)
	f.Push()
	if f.Produced() != 6 || f.Consumed() != 3 || f.Free() != f.Size()-3 || f.Unpublished() != 0 {
		t.Errorf("produced %d, consumed %d, free %d", f.Produced(), f.Consumed(), f.Free())
	}
	if got := binary.LittleEndian.Uint32(page); got != 6 {
		t.Errorf("req_prod is %d, want 6", got)
	}
}
