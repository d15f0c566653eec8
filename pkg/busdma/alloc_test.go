package busdma_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// rounds are the ways a map, or a run of them, goes through a queue. Each leaves the
// pool as it was.
func rounds(t testing.TB) map[string]func() {
	config := busdma.TagConfig{ReadOnly: true, MaxSegments: 18}
	q := newQueue(t, heapgrants.New(t), 256, config)
	rx := newQueue(t, heapgrants.New(t), 256, busdma.TagConfig{})
	frame := make([]byte, 1514)
	large := make([]byte, 65535)
	segs := make([]busdma.Segment, 0, 18)
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	single := func(q *queue, buf func(m *busdma.Map) []byte) func() {
		return func() {
			m, _ := q.pool.Take()
			_, err := q.tag.Load(m, buf(m))
			must(err)
			must(q.tag.Sync(m, busdma.PreRead|busdma.PreWrite))
			must(q.tag.Publish(m))
			must(q.tag.Sync(m, busdma.PostRead|busdma.PostWrite))
			must(q.tag.Unload(m))
			must(q.pool.Put(m))
		}
	}
	run := func(buf func(run []busdma.Map) []byte) func() {
		return func() {
			run, _ := q.pool.TakeRun(17)
			loaded, err := q.tag.LoadRun(run, buf(run), segs)
			must(err)
			for i := range loaded {
				m := &run[i]
				must(q.tag.Sync(m, busdma.PreWrite))
				must(q.tag.Publish(m))
			}
			for i := range loaded {
				m := &run[i]
				must(q.tag.Sync(m, busdma.PostWrite))
				must(q.tag.Unload(m))
			}
			must(q.pool.PutRun(run))
		}
	}
	ignore := func(segs []busdma.Segment, err error) {}
	release := func(m *busdma.Map, segs []busdma.Segment, err error) {
		must(q.tag.Unload(m))
		must(q.pool.Put(m))
	}
	return map[string]func(){
		"map in place":   single(q, func(m *busdma.Map) []byte { return m.Page()[:1514] }),
		"map bounced":    single(q, func(*busdma.Map) []byte { return frame }),
		"map bounced rx": single(rx, func(*busdma.Map) []byte { return frame }),
		"run in place": run(func(run []busdma.Map) []byte {
			start := run[0].Index() * xen.PageSize
			return q.slab.Bytes()[start+12 : start+12+65535]
		}),
		"run bounced": run(func([]busdma.Map) []byte { return large }),
		"callback": func() {
			m, _ := q.pool.Take()
			must(q.tag.LoadFunc(m, m.Page(), ignore))
			must(q.tag.Unload(m))
			must(q.pool.Put(m))
		},
		"pool's callback": func() { must(q.pool.LoadFunc(frame, release)) },
		"misuse": func() {
			m, _ := q.pool.At(0)
			_, _ = q.tag.Load(m, frame)
			_, _ = q.tag.LoadRun(nil, nil, nil)
			_ = q.tag.Unload(m)
			_ = q.pool.Put(m)
			_ = rx.tag.Publish(m)
			_, _ = q.pool.TakeRun(300)
			_ = q.pool.Counts()
		},
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	for name, round := range rounds(t) {
		if n := testing.AllocsPerRun(200, round); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkRound(b *testing.B) {
	all := rounds(b)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		round := all[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				round()
			}
			if n := testing.AllocsPerRun(100, round); n != 0 {
				b.Fatalf("%v allocations", n)
			}
		})
	}
}

// BenchmarkOperation times one operation with its reverse.
func BenchmarkOperation(b *testing.B) {
	q := newQueue(b, heapgrants.New(b), 256, busdma.TagConfig{ReadOnly: true, MaxSegments: 18})
	m := q.take(b)
	page := m.Page()[:1514]
	b.Run("Take and Put", func(b *testing.B) {
		for b.Loop() {
			m, _ := q.pool.Take()
			_ = q.pool.Put(m)
		}
	})
	b.Run("TakeRun and PutRun of 17", func(b *testing.B) {
		for b.Loop() {
			run, _ := q.pool.TakeRun(17)
			_ = q.pool.PutRun(run)
		}
	})
	b.Run("Load and Unload", func(b *testing.B) {
		for b.Loop() {
			_, _ = q.tag.Load(m, page)
			_ = q.tag.Unload(m)
		}
	})
	b.Run("Load, Publish and Unload", func(b *testing.B) {
		for b.Loop() {
			_, _ = q.tag.Load(m, page)
			_ = q.tag.Publish(m)
			_ = q.tag.Unload(m)
		}
	})
	_, _ = q.tag.Load(m, page)
	b.Run("Sync in place", func(b *testing.B) {
		for b.Loop() {
			_ = q.tag.Sync(m, busdma.PreWrite)
		}
	})
	b.Run("Check", func(b *testing.B) {
		for b.Loop() {
			_ = q.pool.Check()
		}
	})
}
