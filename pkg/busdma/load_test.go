package busdma_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

func TestLoadInPlaceGivesTheBuffersSegment(t *testing.T) {
	for _, c := range []struct {
		name           string
		cfg            busdma.TagConfig
		offset, length int
		want           error
	}{
		{"whole page", busdma.TagConfig{}, 0, 4096, nil},
		{"last byte", busdma.TagConfig{}, 4095, 1, nil},
		{"behind a virtio header", busdma.TagConfig{}, 12, 1514, nil},
		{"nothing", busdma.TagConfig{}, 5, 0, busdma.ErrEmpty},
		{"up to the boundary", busdma.TagConfig{Boundary: 2048}, 1048, 1000, nil},
		{"from the boundary", busdma.TagConfig{Boundary: 2048}, 2048, 2048, nil},
		{"across the boundary", busdma.TagConfig{Boundary: 2048}, 1048, 1001, busdma.ErrBoundary},
		{"across a boundary of one byte", busdma.TagConfig{Boundary: 1}, 7, 2, busdma.ErrBoundary},
		{"largest segment", busdma.TagConfig{MaxSegmentSize: 1500}, 4096 - 1500, 1500, nil},
		{"too large a segment", busdma.TagConfig{MaxSegmentSize: 1500}, 0, 1501, busdma.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQueue(t, heapgrants.New(t), 2, c.cfg)
			m := q.take(t)
			buf := m.Page()[c.offset : c.offset+c.length]
			seg, err := q.tag.Load(m, buf)
			fails(t, err, c.want)
			want, state := busdma.Segment{Ref: m.Ref(), Offset: uint16(c.offset), Len: uint16(c.length)}, busdma.Loaded
			if err != nil {
				want, state = busdma.Segment{}, busdma.Taken
			}
			if seg != want || m.State() != state {
				t.Errorf("%+v, %v; want %+v, %v", seg, m.State(), want, state)
			}
			q.check(t)
		})
	}
}

func TestBufferPartlyInThePageIsRefused(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 4, busdma.TagConfig{MaxSegments: 4})
	all := q.slab.Bytes()
	run := q.takeRun(t, 2) // pages 2 and 3
	m := &run[0]
	for _, r := range [][2]int{
		{2*4096 - 1, 2*4096 + 1},    // begins before the page
		{3*4096 - 1, 3*4096 + 1},    // ends behind it
		{2*4096 - 1, 3*4096 + 1},    // both
		{4096 + 1, 2*4096 + 1},      // ends in it
		{0, len(all)},               // everything
		{2*4096 + 4095, 4096*3 + 9}, // its last byte and more
	} {
		before := bytes.Clone(all)
		_, err := q.tag.Load(m, all[r[0]:r[1]])
		fails(t, err, busdma.ErrBoundary)
		if m.State() != busdma.Taken || !bytes.Equal(before, all) {
			t.Fatalf("bytes %d to %d: %v", r[0], r[1], m.State())
		}
	}
	// Next to the page is not in it.
	_, err := q.tag.Load(m, all[3*4096:])
	ok(t, err)
	ok(t, q.tag.Unload(m))
	_, err = q.tag.Load(m, all[4096:2*4096])
	ok(t, err)
	ok(t, q.tag.Unload(m))

	// The same for the pages of a run.
	_, err = q.tag.LoadRun(run, all[2*4096-1:3*4096], nil)
	fails(t, err, busdma.ErrBoundary)
	_, err = q.tag.LoadRun(run[:1], all[2*4096:3*4096+1], nil)
	fails(t, err, busdma.ErrBoundary)
	q.check(t)
}

func TestBouncedTransmitCarriesTheBuffer(t *testing.T) {
	g := heapgrants.New(t)
	q := newQueue(t, g, 1, busdma.TagConfig{ReadOnly: true})
	m := q.take(t)
	view, err := g.MapForeign(peer, m.Ref(), false)
	ok(t, err)
	frame := pattern(1514, 1)
	seg, err := q.tag.Load(m, frame)
	ok(t, err)
	if want := (busdma.Segment{Ref: m.Ref(), Len: 1514}); seg != want {
		t.Fatalf("got %+v, want %+v", seg, want)
	}
	if view[1] != 0 {
		t.Error("copied before Sync")
	}
	fails(t, q.tag.Publish(m), busdma.ErrNotSynced)
	ok(t, q.tag.Sync(m, busdma.PreRead))
	fails(t, q.tag.Publish(m), busdma.ErrNotSynced)
	ok(t, q.tag.Sync(m, busdma.PreWrite))
	ok(t, q.tag.Publish(m))
	if !bytes.Equal(view[:1514], frame) || view[1514] != 0 {
		t.Error("the peer does not see the frame")
	}
	// In flight the page is the peer's to read.
	fails(t, q.tag.Sync(m, busdma.PreWrite), busdma.ErrNotLoaded)
	fails(t, q.tag.Sync(m, busdma.PreWrite|busdma.PreRead), busdma.ErrNotLoaded)
	ok(t, q.tag.Sync(m, busdma.PostWrite))
	frame[0] ^= 0xff
	ok(t, q.tag.Sync(m, busdma.PostRead))
	if frame[0] == view[0] {
		t.Error("copied back what the peer cannot have written")
	}
	ok(t, q.tag.Unload(m))
	fails(t, q.tag.Sync(m, busdma.PostWrite), busdma.ErrNotLoaded)
	ok(t, g.UnmapForeign(m.Ref()))
}

func TestBouncedReceiveFillsTheBuffer(t *testing.T) {
	g := heapgrants.New(t)
	q := newQueue(t, g, 1, busdma.TagConfig{})
	m := q.take(t)
	view, err := g.MapForeign(peer, m.Ref(), true)
	ok(t, err)
	backing := make([]byte, 1000)
	_, err = q.tag.Load(m, backing[:900])
	ok(t, err)
	ok(t, q.tag.Sync(m, busdma.PreRead))
	ok(t, q.tag.Publish(m))
	frame := pattern(1000, 9)
	copy(view, frame)
	if backing[0] != 0 {
		t.Error("copied before Sync")
	}
	ok(t, q.tag.Sync(m, busdma.PostRead))
	if !bytes.Equal(backing[:900], frame[:900]) || backing[900] != 0 {
		t.Error("the buffer has not what the peer has written, or more")
	}
	ok(t, q.tag.Unload(m))
	ok(t, g.UnmapForeign(m.Ref()))
}

func TestLoadInPlaceIsNotCopied(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 1, busdma.TagConfig{})
	m := q.take(t)
	frame := pattern(100, 4)
	copy(m.Page()[12:], frame)
	want := bytes.Clone(m.Page())
	_, err := q.tag.Load(m, m.Page()[12:112])
	ok(t, err)
	ok(t, q.tag.Sync(m, busdma.PreRead|busdma.PreWrite))
	ok(t, q.tag.Publish(m))
	ok(t, q.tag.Sync(m, busdma.PostRead|busdma.PostWrite))
	if !bytes.Equal(m.Page(), want) {
		t.Error("Sync has moved bytes of a load in place")
	}
}

func TestSecondLoadIsRefused(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 1, busdma.TagConfig{})
	m := q.take(t)
	first := pattern(10, 1)
	_, err := q.tag.Load(m, first)
	ok(t, err)
	_, err = q.tag.Load(m, pattern(20, 2))
	fails(t, err, busdma.ErrNotTaken)
	ok(t, q.tag.Sync(m, busdma.PreWrite))
	if !bytes.Equal(m.Page()[:20], append(first[:10:10], make([]byte, 10)...)) {
		t.Error("the first load is not what it was")
	}
	ok(t, q.tag.Publish(m))
	_, err = q.tag.Load(m, m.Page())
	fails(t, err, busdma.ErrNotTaken)
	fails(t, q.tag.Publish(m), busdma.ErrNotLoaded)
}

func TestTooLargeABufferIsRefused(t *testing.T) {
	for _, c := range []struct {
		cfg  busdma.TagConfig
		most int
	}{
		{busdma.TagConfig{}, 4096},
		{busdma.TagConfig{MaxSegmentSize: 1500}, 1500},
		{busdma.TagConfig{Boundary: 512}, 512},
		{busdma.TagConfig{Boundary: 2048, MaxSegmentSize: 3000}, 2048},
	} {
		q := newQueue(t, heapgrants.New(t), 1, c.cfg)
		m := q.take(t)
		_, err := q.tag.Load(m, make([]byte, c.most+1))
		fails(t, err, busdma.ErrTooLarge)
		_, err = q.tag.Load(m, make([]byte, c.most))
		ok(t, err)
	}
}

func TestMapOfAnotherTagIsRefused(t *testing.T) {
	g := heapgrants.New(t)
	q, other := newQueue(t, g, 4, busdma.TagConfig{MaxSegments: 2}), newQueue(t, g, 4, busdma.TagConfig{MaxSegments: 2})
	run := other.takeRun(t, 2)
	m := &run[0]
	for _, m := range []*busdma.Map{m, nil} {
		_, err := q.tag.Load(m, make([]byte, 10))
		fails(t, err, busdma.ErrWrongTag)
		called := 0
		fails(t, q.tag.LoadFunc(m, make([]byte, 10), func(segs []busdma.Segment, err error) {
			called++
			fails(t, err, busdma.ErrWrongTag)
		}), busdma.ErrWrongTag)
		if called != 1 {
			t.Errorf("callback called %d times", called)
		}
		fails(t, q.tag.Sync(m, busdma.PreWrite), busdma.ErrWrongTag)
		fails(t, q.tag.Publish(m), busdma.ErrWrongTag)
		fails(t, q.tag.Unload(m), busdma.ErrWrongTag)
		fails(t, q.tag.Quarantine(m), busdma.ErrWrongTag)
		fails(t, q.pool.Put(m), busdma.ErrWrongPool)
	}
	_, err := q.tag.LoadRun(run, make([]byte, 10), nil)
	fails(t, err, busdma.ErrWrongTag)
	fails(t, q.pool.PutRun(run), busdma.ErrWrongPool)
	_, err = busdma.NewPool(q.tag, other.slab, nil)
	fails(t, err, busdma.ErrWrongTag)
	if m.State() != busdma.Taken {
		t.Errorf("map is %v", m.State())
	}
	other.check(t)
}

func TestLoadFuncCallsBackWithTheSegment(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 2, busdma.TagConfig{})
	m := q.take(t)
	var got []busdma.Segment
	ok(t, q.tag.LoadFunc(m, m.Page()[5:25], func(segs []busdma.Segment, err error) {
		ok(t, err)
		got = segs
	}))
	if len(got) != 1 || got[0] != (busdma.Segment{Ref: m.Ref(), Offset: 5, Len: 20}) {
		t.Errorf("segments %+v", got)
	}
	// The review ignored the error of a load. Here it comes twice.
	called := false
	fails(t, q.tag.LoadFunc(m, m.Page(), func(segs []busdma.Segment, err error) {
		called = true
		if len(segs) != 0 {
			t.Errorf("segments %+v of a failed load", segs)
		}
		fails(t, err, busdma.ErrNotTaken)
	}), busdma.ErrNotTaken)
	if !called {
		t.Error("callback not called")
	}
	if err := q.tag.LoadFunc(q.take(t), m.Page(), nil); err == nil {
		t.Error("load without a callback")
	}
}

func TestEveryStateHasAName(t *testing.T) {
	seen := make(map[string]bool)
	for s := busdma.Pooled; s <= busdma.Quarantined+1; s++ {
		seen[fmt.Sprint(s)] = true
	}
	if len(seen) != 6 || !seen["in flight"] || !seen["state 5"] {
		t.Errorf("names %v", seen)
	}
}

func TestCopyOfAMapIsRefused(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 3, busdma.TagConfig{MaxSegments: 3})
	run := q.takeRun(t, 3)
	copied := make([]busdma.Map, 3)
	copy(copied, run)
	_, err := q.tag.Load(&copied[0], make([]byte, 10))
	fails(t, err, busdma.ErrCopied)
	fails(t, q.tag.Quarantine(&copied[0]), busdma.ErrCopied)
	fails(t, q.pool.Put(&copied[0]), busdma.ErrCopied)
	fails(t, copied[0].Destroy(), busdma.ErrCopied)
	_, err = q.tag.LoadRun(copied, make([]byte, 10), nil)
	fails(t, err, busdma.ErrNotContiguous)
	fails(t, q.pool.PutRun(copied), busdma.ErrNotContiguous)
	q.check(t)
	if n := q.pool.Counts(); n.Loaded+n.Quarantined != 0 || q.pool.Free() != 0 {
		t.Errorf("counts %+v", n)
	}
}

func TestPageCannotBeReslicedIntoTheNext(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 2, busdma.TagConfig{})
	if m := q.take(t); cap(m.Page()) != xen.PageSize {
		t.Errorf("capacity %d", cap(m.Page()))
	}
}
