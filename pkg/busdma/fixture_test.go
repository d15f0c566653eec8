package busdma_test

import (
	"errors"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const (
	self xen.DomID = 7 // the domain under test
	peer xen.DomID = 3
)

// queue is a tag, a slab and a pool, as each ring has them.
type queue struct {
	tag  *busdma.Tag
	slab *busdma.Slab
	pool *busdma.Pool
}

// newQueue makes a queue of maps maps, and takes it down at the end of the test,
// whatever state it is in then.
func newQueue(t testing.TB, g busdma.Allocator, maps int, cfg busdma.TagConfig) *queue {
	t.Helper()
	cfg.Peer = peer
	q := new(queue)
	var err error
	if q.tag, err = busdma.NewTag(g, cfg); err != nil {
		t.Fatal(err)
	}
	q.fill(t, maps)
	t.Cleanup(func() {
		q.drain(t)
		if err := q.tag.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// fill allocates slab and pool.
func (q *queue) fill(t testing.TB, maps int) {
	t.Helper()
	var err error
	if q.slab, err = q.tag.AllocSlab(maps); err != nil {
		t.Fatal(err)
	}
	if q.pool, err = busdma.NewPool(q.tag, q.slab, nil); err != nil {
		t.Fatal(err)
	}
}

// drain takes slab and pool down as a disconnect does. It does nothing to a pool and
// a slab that are gone already.
func (q *queue) drain(t testing.TB) {
	t.Helper()
	q.pool.Abandon()
	if err := q.pool.Destroy(); err != nil && !errors.Is(err, busdma.ErrDestroyed) {
		t.Error(err)
	}
	if err := q.slab.Free(); err != nil && !errors.Is(err, busdma.ErrDestroyed) {
		t.Error(err)
	}
}

func (q *queue) take(t testing.TB) *busdma.Map {
	t.Helper()
	m, ok := q.pool.Take()
	if !ok {
		t.Fatal("pool is empty")
	}
	return m
}

func (q *queue) takeRun(t testing.TB, n int) []busdma.Map {
	t.Helper()
	run, ok := q.pool.TakeRun(n)
	if !ok {
		t.Fatalf("no run of %d", n)
	}
	return run
}

// check fails the test when the pool's accounts are wrong.
func (q *queue) check(t testing.TB) {
	t.Helper()
	if err := q.pool.Check(); err != nil {
		t.Fatal(err)
	}
}

// ok fails the test on an error.
func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fails fails the test unless err is want.
func fails(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

// pattern is n bytes that differ from their neighbours and from another seed's.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i) + byte(i>>8)*17
	}
	return b
}
