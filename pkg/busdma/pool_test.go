package busdma_test

import (
	"math"
	"reflect"
	"testing"
	"unsafe"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

func TestSinglesAndRunsComeFromOppositeEnds(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 256, busdma.TagConfig{})
	for i := range 100 {
		if m := q.take(t); m.Index() != i {
			t.Fatalf("take %d gives map %d", i, m.Index())
		}
	}
	for i := range 9 {
		if run := q.takeRun(t, 17); run[0].Index() != 256-17*(i+1) || len(run) != 17 || cap(run) != 17 {
			t.Fatalf("run %d begins with map %d, length %d, capacity %d", i, run[0].Index(), len(run), cap(run))
		}
	}
	if _, ok := q.pool.TakeRun(17); ok || q.pool.Free() != 3 {
		t.Errorf("a tenth run, %d pooled", q.pool.Free())
	}
	m, _ := q.pool.At(40)
	ok(t, q.pool.Put(m))
	if again := q.take(t); again != m {
		t.Errorf("took map %d, not the lowest", again.Index())
	}
	q.check(t)
}

func TestRunIsFoundAndHasNoHole(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 200, busdma.TagConfig{})
	all := q.takeRun(t, 200)
	// Free: 10 to 19, 60 to 69 (over a word's end), 198 and 199.
	for _, free := range [][2]int{{10, 20}, {60, 70}, {198, 200}} {
		ok(t, q.pool.PutRun(all[free[0]:free[1]]))
	}
	for _, c := range []struct{ n, first int }{{3, 67}, {7, 60}, {2, 198}, {8, 12}, {2, 10}} {
		if run := q.takeRun(t, c.n); run[0].Index() != c.first {
			t.Errorf("run of %d begins with %d, want %d", c.n, run[0].Index(), c.first)
		}
	}
	for _, n := range []int{1, 0, -1, 201, 256, 257, math.MaxInt, math.MinInt} {
		if _, ok := q.pool.TakeRun(n); ok {
			t.Errorf("a run of %d from an empty pool", n)
		}
	}
	q.check(t)
}

func TestMapNumberOfTheBackendIsChecked(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 3, busdma.TagConfig{})
	for _, i := range []int{-1, 3, 255, 256, 65535, math.MaxInt, math.MinInt} {
		if m, ok := q.pool.At(i); ok || m != nil {
			t.Errorf("map %d of 3 exists", i)
		}
	}
	for i := range 3 {
		m, ok := q.pool.At(i)
		if !ok || m.Index() != i || m.State() != busdma.Pooled || &m.Page()[0] != &q.slab.Bytes()[i*xen.PageSize] {
			t.Errorf("map %d is not page %d", i, i)
		}
	}
}

func TestPooledMapIsRefused(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 2, busdma.TagConfig{})
	m, _ := q.pool.At(1)
	_, err := q.tag.Load(m, m.Page())
	fails(t, err, busdma.ErrNotTaken)
	fails(t, q.tag.Publish(m), busdma.ErrNotLoaded)
	fails(t, q.tag.Unload(m), busdma.ErrNotLoaded)
	fails(t, q.tag.Sync(m, busdma.PreRead), busdma.ErrNotLoaded)
	fails(t, q.tag.Quarantine(m), busdma.ErrNotTaken)
	fails(t, m.Destroy(), busdma.ErrBusy)
	if m.State() != busdma.Pooled || q.pool.Free() != 2 {
		t.Errorf("map is %v", m.State())
	}
	q.check(t)
}

func TestPutOfARunIsAllOrNothing(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 4, busdma.TagConfig{})
	run := q.takeRun(t, 4)
	_, err := q.tag.Load(&run[3], make([]byte, 1))
	ok(t, err)
	fails(t, q.pool.PutRun(run), busdma.ErrNotTaken)
	if q.pool.Free() != 0 {
		t.Errorf("%d maps were put back", q.pool.Free())
	}
	ok(t, q.tag.Unload(&run[3]))
	ok(t, q.pool.PutRun(run))
	ok(t, q.pool.PutRun(nil))
	fails(t, q.pool.PutRun(run[1:2]), busdma.ErrNotTaken)
	q.check(t)
}

func TestCountsAddUp(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 10, busdma.TagConfig{})
	for i := range 9 {
		m := q.take(t)
		if i > 1 {
			_, err := q.tag.Load(m, m.Page())
			ok(t, err)
		}
		if i > 3 {
			ok(t, q.tag.Publish(m))
		}
		if i > 6 {
			ok(t, q.tag.Quarantine(m))
			ok(t, q.tag.Quarantine(m)) // twice is as good as once
		}
	}
	want := busdma.Counts{Free: 3, Loaded: 2, InFlight: 3, Quarantined: 2, Created: 10}
	if got := q.pool.Counts(); got != want || q.pool.Free() != 1 {
		t.Errorf("%+v with %d pooled, want %+v with 1", got, q.pool.Free(), want)
	}
	q.check(t)
}

func TestQuarantinedMapNeverComesBack(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 2, busdma.TagConfig{})
	m := q.take(t)
	ok(t, q.tag.Quarantine(m))
	_, err := q.tag.Load(m, m.Page())
	fails(t, err, busdma.ErrNotTaken)
	fails(t, q.tag.Publish(m), busdma.ErrNotLoaded)
	fails(t, q.tag.Unload(m), busdma.ErrNotLoaded)
	fails(t, q.tag.Sync(m, busdma.PostRead), busdma.ErrNotLoaded)
	fails(t, q.pool.Put(m), busdma.ErrNotTaken)
	q.take(t)
	if _, ok := q.pool.Take(); ok {
		t.Error("the quarantined map was taken")
	}
	ok(t, q.pool.Destroy())
	_, err = busdma.NewPool(q.tag, q.slab, nil)
	fails(t, err, busdma.ErrQuarantined)
	ok(t, q.slab.Free())
	q.fill(t, 2)
	if q.pool.Free() != 2 {
		t.Errorf("new slab: %d pooled", q.pool.Free())
	}
}

func TestMapOfADestroyedPoolIsRefused(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 3, busdma.TagConfig{MaxSegments: 2})
	run := q.takeRun(t, 2)
	m := &run[0]
	ok(t, q.pool.Destroy())
	ok(t, q.slab.Free())
	_, err := q.tag.Load(m, make([]byte, 1))
	fails(t, err, busdma.ErrDestroyed)
	_, err = q.tag.LoadRun(run, make([]byte, 1), nil)
	fails(t, err, busdma.ErrDestroyed)
	fails(t, q.tag.Publish(m), busdma.ErrDestroyed)
	fails(t, q.tag.Unload(m), busdma.ErrDestroyed)
	fails(t, q.tag.Sync(m, busdma.PreWrite), busdma.ErrDestroyed)
	fails(t, q.tag.Quarantine(m), busdma.ErrDestroyed)
	fails(t, q.pool.Put(m), busdma.ErrDestroyed)
	fails(t, q.pool.PutRun(run), busdma.ErrDestroyed)
	fails(t, m.Destroy(), busdma.ErrDestroyed)
	fails(t, q.pool.Destroy(), busdma.ErrDestroyed)
	if m.Page() != nil || m.State() != busdma.Pooled {
		t.Error("the map still has its page")
	}
	if _, ok := q.pool.Take(); ok {
		t.Error("took a map")
	}
	if _, ok := q.pool.TakeRun(1); ok {
		t.Error("took a run")
	}
	if _, ok := q.pool.At(0); ok {
		t.Error("there is a map 0")
	}
	if q.pool.Counts() != (busdma.Counts{}) || q.pool.Abandon() != 0 {
		t.Errorf("counts %+v", q.pool.Counts())
	}
	q.check(t)
}

func TestPoolHasNoMoreMapsThanARing(t *testing.T) {
	tag, err := busdma.NewTag(heapgrants.New(t), busdma.TagConfig{Peer: peer})
	ok(t, err)
	slab, err := tag.AllocSlab(busdma.MaxMaps + 1)
	ok(t, err)
	_, err = busdma.NewPool(tag, slab, nil)
	fails(t, err, busdma.ErrRange)
	ok(t, slab.Free())
}

func TestPoolStateHasNoPointers(t *testing.T) {
	var walk func(typ reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		switch typ.Kind() {
		case reflect.Struct:
			for f := range typ.Fields() {
				walk(f.Type, path+"."+f.Name)
			}
		case reflect.Array:
			walk(typ.Elem(), path+"[]")
		case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		default:
			t.Errorf("%s is a %v", path, typ)
		}
	}
	walk(reflect.TypeFor[busdma.PoolState](), "PoolState")
	// The next process may be another version: a change of layout must be noticed.
	if size := unsafe.Sizeof(busdma.PoolState{}); size != 328 {
		t.Errorf("PoolState has %d bytes", size)
	}
}

func TestTwoPoolsOnOneStateAreRefused(t *testing.T) {
	g := heapgrants.New(t)
	tag, err := busdma.NewTag(g, busdma.TagConfig{Peer: peer})
	ok(t, err)
	one, err := tag.AllocSlab(2)
	ok(t, err)
	two, err := tag.AllocSlab(2)
	ok(t, err)
	var st busdma.PoolState
	pool, err := busdma.NewPool(tag, one, &st)
	ok(t, err)
	_, err = busdma.NewPool(tag, two, &st)
	fails(t, err, busdma.ErrBusy)
	ok(t, pool.Check())
	ok(t, pool.Destroy())
	pool, err = busdma.NewPool(tag, two, &st)
	ok(t, err)
	ok(t, pool.Destroy())
	ok(t, one.Free())
	ok(t, two.Free())
}

func TestOverwrittenRunIsRefused(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 4, busdma.TagConfig{MaxSegments: 3})
	run := q.takeRun(t, 3)
	copy(run[1:2], run[2:])
	_, err := q.tag.LoadRun(run, make([]byte, 3*xen.PageSize), nil)
	fails(t, err, busdma.ErrNotContiguous)
	if run[0].State() != busdma.Taken {
		t.Errorf("map is %v", run[0].State())
	}
	fails(t, q.pool.PutRun(run), busdma.ErrNotContiguous)
	fails(t, q.pool.Check(), busdma.ErrCorrupt)
}

func TestAbandonedPoolWithMapsLoadedCanBeDestroyed(t *testing.T) {
	q := newQueue(t, heapgrants.New(t), 4, busdma.TagConfig{ReadOnly: true})
	loaded, flying := q.take(t), q.take(t)
	for _, m := range []*busdma.Map{loaded, flying} {
		_, err := q.tag.Load(m, m.Page()[:100])
		ok(t, err)
	}
	ok(t, q.tag.Publish(flying))
	if n := q.pool.Abandon(); n != 2 {
		t.Errorf("%d maps abandoned, want the one in flight and the one loaded", n)
	}
	q.check(t)
	if loaded.State() != busdma.Quarantined || flying.State() != busdma.Quarantined {
		t.Errorf("maps are %v and %v", loaded.State(), flying.State())
	}
	ok(t, q.pool.Destroy())
	ok(t, q.slab.Free())
}
