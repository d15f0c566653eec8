package busdma_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// gather is what the peer reads of the segments.
func gather(t testing.TB, g *heapgrants.Grants, segs []busdma.Segment) []byte {
	t.Helper()
	var b []byte
	for _, s := range segs {
		if s.Len == 0 || int(s.Offset)+int(s.Len) > xen.PageSize {
			t.Fatalf("segment %+v leaves its page", s)
		}
		page, err := g.MapForeign(peer, s.Ref, false)
		ok(t, err)
		b = append(b, page[s.Offset:s.Offset+s.Len]...)
		ok(t, g.UnmapForeign(s.Ref))
	}
	return b
}

// syncLoaded syncs the maps of run that are loaded and returns how many there are.
func syncLoaded(t testing.TB, tag *busdma.Tag, run []busdma.Map) int {
	t.Helper()
	n := 0
	for i := range run {
		if m := &run[i]; m.State() == busdma.Loaded {
			ok(t, tag.Sync(m, busdma.PreWrite))
			n++
		}
	}
	return n
}

func TestSuperFrameInPlaceIsSeventeenSegments(t *testing.T) {
	g := heapgrants.New(t)
	q := newQueue(t, g, 64, busdma.TagConfig{ReadOnly: true, MaxSegments: 18})
	run := q.takeRun(t, 18)
	start := run[0].Index() * xen.PageSize
	const header = 12
	frame := q.slab.Bytes()[start+header : start+header+65535]
	copy(frame, pattern(65535, 3))

	segs := make([]busdma.Segment, 0, 18)
	segs, err := q.tag.LoadRun(run, frame, segs)
	ok(t, err)
	if len(segs) != 17 || segs[0].Offset != header || segs[0].Len != 4096-header || segs[16].Len != 11 {
		t.Errorf("%d segments: %+v", len(segs), segs)
	}
	if n := syncLoaded(t, q.tag, run); n != 17 || run[17].State() != busdma.Taken {
		t.Errorf("%d maps loaded, the last is %v", n, run[17].State())
	}
	if !bytes.Equal(gather(t, g, segs), pattern(65535, 3)) {
		t.Error("the peer reads another frame")
	}
	for i := range segs {
		if segs[i].Ref != run[i].Ref() {
			t.Errorf("segment %d is of grant %d, map %d has %d", i, segs[i].Ref, i, run[i].Ref())
		}
	}
	q.check(t)
}

func TestRunLimitsAreKept(t *testing.T) {
	const page = xen.PageSize
	for _, c := range []struct {
		name     string
		cfg      busdma.TagConfig
		from, to int // of the run's pages; from -1: to bytes elsewhere
		first    int // map loaded first
		lens     []int
		want     error
	}{
		{"one byte", busdma.TagConfig{}, -1, 1, 0, []int{1}, nil},
		{"two pages elsewhere", busdma.TagConfig{MaxSegments: 2}, -1, 2 * page, 0, []int{page, page}, nil},
		{"more segments than the tag allows", busdma.TagConfig{MaxSegments: 2}, -1, 2*page + 1, 0, nil, busdma.ErrTooLarge},
		{"more pages than the run has", busdma.TagConfig{MaxSegments: 9}, -1, 3*page + 1, 0, nil, busdma.ErrTooLarge},
		{"nothing", busdma.TagConfig{}, -1, 0, 0, nil, busdma.ErrEmpty},
		{"small segments elsewhere", busdma.TagConfig{MaxSegments: 3, MaxSegmentSize: 1000}, -1, 2500, 0, []int{1000, 1000, 500}, nil},
		{"small boundary elsewhere", busdma.TagConfig{MaxSegments: 3, Boundary: 2048}, -1, 4097, 0, []int{2048, 2048, 1}, nil},
		{"small segments, run too short", busdma.TagConfig{MaxSegments: 9, MaxSegmentSize: 1000}, -1, 3001, 0, nil, busdma.ErrTooLarge},
		{"in place over a page's end", busdma.TagConfig{MaxSegments: 2}, 4000, 4200, 0, []int{96, 104}, nil},
		{"in place, the tag has one segment", busdma.TagConfig{}, 4000, 4200, 0, nil, busdma.ErrTooLarge},
		{"in place from the second page", busdma.TagConfig{MaxSegments: 3}, page + 10, 3 * page, 1, []int{page - 10, page}, nil},
		{"in place in the last page", busdma.TagConfig{}, 3*page - 1, 3 * page, 2, []int{1}, nil},
		{"in place, all", busdma.TagConfig{MaxSegments: 3}, 0, 3 * page, 0, []int{page, page, page}, nil},
		{"in place, pieces over the segment size", busdma.TagConfig{MaxSegments: 3, MaxSegmentSize: 2000}, 3000, 6000, 0, []int{1096, 1904}, nil},
		{"in place, a piece too large", busdma.TagConfig{MaxSegments: 3, MaxSegmentSize: 2000}, 3000, 6097, 0, nil, busdma.ErrTooLarge},
		{"in place across the boundary", busdma.TagConfig{MaxSegments: 3, Boundary: 1024}, 3500, 6000, 0, nil, busdma.ErrBoundary},
		{"in place, the tail across the boundary", busdma.TagConfig{MaxSegments: 3, Boundary: 1024}, 4000, 4096 + 1025, 0, nil, busdma.ErrBoundary},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := heapgrants.New(t)
			q := newQueue(t, g, 5, c.cfg)
			run := q.takeRun(t, 3)
			var buf []byte
			if c.from < 0 {
				buf = make([]byte, c.to)
			} else {
				start := run[0].Index() * page
				buf = q.slab.Bytes()[start+c.from : start+c.to]
			}
			copy(buf, pattern(len(buf), 77))
			given := []busdma.Segment{{Ref: 1}}
			segs, err := q.tag.LoadRun(run, buf, given)
			fails(t, err, c.want)
			var lens []int
			for _, s := range segs[1:] {
				lens = append(lens, int(s.Len))
			}
			if segs[0] != given[0] || !slices.Equal(lens, c.lens) {
				t.Errorf("segments %+v, want lengths %v", segs, c.lens)
			}
			for i := range run {
				state := busdma.Taken
				if i >= c.first && i < c.first+len(c.lens) {
					state = busdma.Loaded
				}
				if run[i].State() != state {
					t.Errorf("map %d is %v, want %v", i, run[i].State(), state)
				}
			}
			syncLoaded(t, q.tag, run)
			if got := gather(t, g, segs[1:]); err == nil && !bytes.Equal(got, buf) {
				t.Error("the peer reads another buffer")
			}
			q.check(t)
		})
	}
}

func TestRunWithALoadedMapIsNotLoadedAtAll(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 3, busdma.TagConfig{MaxSegments: 3})
	run := q.takeRun(t, 3)
	_, err := q.tag.Load(&run[2], make([]byte, 1))
	ok(t, err)
	segs, err := q.tag.LoadRun(run, make([]byte, 3*xen.PageSize), nil)
	fails(t, err, busdma.ErrNotTaken)
	if len(segs) != 0 || run[0].State() != busdma.Taken || run[1].State() != busdma.Taken {
		t.Errorf("segments %+v, maps %v %v", segs, run[0].State(), run[1].State())
	}
	// A map that the buffer does not need is none of the load's business.
	_, err = q.tag.LoadRun(run, make([]byte, 2*xen.PageSize), nil)
	ok(t, err)
	_, err = q.tag.LoadRun(nil, make([]byte, 1), nil)
	fails(t, err, busdma.ErrTooLarge)
	q.check(t)
}

// FuzzRunSegmentsAreNotTheBuffer loads any piece of a run's pages, or as many bytes
// elsewhere, under any limits: either nothing changes or the segments are the buffer.
func FuzzRunSegmentsAreNotTheBuffer(f *testing.F) {
	f.Add(true, uint16(12), uint16(0xffff), uint8(12), uint16(4096), uint8(18), uint8(18))
	f.Add(false, uint16(0), uint16(3000), uint8(9), uint16(700), uint8(8), uint8(4))
	f.Add(true, uint16(4095), uint16(4098), uint8(12), uint16(4096), uint8(2), uint8(2))
	f.Add(true, uint16(5000), uint16(300), uint8(10), uint16(512), uint8(1), uint8(3))
	f.Fuzz(func(t *testing.T, inPlace bool, from, length uint16, boundary uint8, size uint16, segments, maps uint8) {
		g := heapgrants.New(t)
		cfg := busdma.TagConfig{Boundary: 1 << (boundary % 13), MaxSegmentSize: int(size)%4096 + 1, MaxSegments: int(segments)}
		q := newQueue(t, g, 20, cfg)
		run := q.takeRun(t, int(maps)%20+1)
		start := run[0].Index()*xen.PageSize + int(from)
		buf := make([]byte, length)
		if end := start + int(length); inPlace && end <= len(q.slab.Bytes()) {
			buf = q.slab.Bytes()[start:end]
		}
		copy(buf, pattern(int(length), 5))
		segs, err := q.tag.LoadRun(run, buf, nil)
		if loaded := syncLoaded(t, q.tag, run); loaded != len(segs) || (err == nil) != (loaded > 0) {
			t.Fatalf("%d maps loaded, %d segments, %v", loaded, len(segs), err)
		}
		for _, s := range segs {
			if int(s.Len) > q.tag.Config().MaxSegmentSize || int(s.Offset)/q.tag.Config().Boundary != int(s.Offset+s.Len-1)/q.tag.Config().Boundary {
				t.Fatalf("segment %+v breaks %+v", s, q.tag.Config())
			}
		}
		if len(segs) > q.tag.Config().MaxSegments {
			t.Fatalf("%d segments break %+v", len(segs), q.tag.Config())
		}
		if err == nil && !bytes.Equal(gather(t, g, segs), buf) {
			t.Fatal("the peer reads another buffer")
		}
		q.check(t)
	})
}
