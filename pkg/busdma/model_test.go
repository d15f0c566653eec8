package busdma_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const modelMaps = 70 // more than one word of the bitmap

// model is a pool, its tag and the contents of its pages as a plain reading of the
// documentation has them, beside the real ones.
type model struct {
	t        *testing.T
	random   *rand.Rand
	g        *heapgrants.Grants
	q        *queue
	run      []busdma.Map // all maps of the pool: pieces of it are any caller's runs
	readOnly bool

	maps    [modelMaps]modelMap
	pages   []byte // what the slab must contain
	waiting []int  // numbers of the loads that wait, oldest first
	loads   int    // number of the next load
	bufs    map[int][]byte

	due, got []delivery     // callbacks of the step
	counts   map[string]int // operations that did something, and those refused
}

type modelMap struct {
	state  busdma.State
	buf    []byte // of the load
	bounce bool
	synced bool
}

// delivery is a callback of load in which map index came, or -1 when cancelled.
type delivery struct{ load, index int }

// connect makes a new slab and pool.
func (d *model) connect() {
	d.q.fill(d.t, modelMaps)
	d.run = d.q.takeRun(d.t, modelMaps)
	ok(d.t, d.q.pool.PutRun(d.run))
	d.maps = [modelMaps]modelMap{}
	d.pages = make([]byte, modelMaps*xen.PageSize)
}

// disconnect takes pool and slab down as a queue does whose connection is gone.
func (d *model) disconnect() {
	counts := d.q.pool.Counts()
	if counts.Loaded+counts.InFlight != 0 {
		fails(d.t, d.q.pool.Destroy(), busdma.ErrBusy)
		d.verify("Destroy of a busy pool")
	}
	if n := d.q.pool.Abandon(); n != counts.InFlight+counts.Loaded {
		d.t.Fatalf("%d maps abandoned of %d in flight and %d loaded", n, counts.InFlight, counts.Loaded)
	}
	for i := range d.maps {
		if s := d.maps[i].state; s == busdma.InFlight || s == busdma.Loaded {
			d.maps[i] = modelMap{state: busdma.Quarantined}
		}
	}
	d.verify("Abandon")
	for _, load := range d.waiting {
		d.due = append(d.due, delivery{load, -1})
	}
	d.waiting = nil
	ok(d.t, d.q.pool.Destroy())
	d.settle()
	ok(d.t, d.q.slab.Free())
	d.counts["disconnect"]++
}

// settle compares the callbacks of a step.
func (d *model) settle() {
	if len(d.due) != len(d.got) {
		d.t.Fatalf("callbacks %v, want %v", d.got, d.due)
	}
	for i := range d.due {
		if d.due[i] != d.got[i] {
			d.t.Fatalf("callbacks %v, want %v", d.got, d.due)
		}
	}
	d.due, d.got = d.due[:0], d.got[:0]
}

// verify compares everything but the pages' contents.
func (d *model) verify(op string) {
	d.t.Helper()
	if err := d.q.pool.Check(); err != nil {
		d.t.Fatalf("after %s: %v", op, err)
	}
	var want busdma.Counts
	pooled := 0
	for i := range d.maps {
		if got := d.run[i].State(); got != d.maps[i].state {
			d.t.Fatalf("after %s: map %d is %v, want %v", op, i, got, d.maps[i].state)
		}
		switch d.maps[i].state {
		case busdma.Pooled:
			pooled++
			want.Free++
		case busdma.Taken:
			want.Free++
		case busdma.Loaded:
			want.Loaded++
		case busdma.InFlight:
			want.InFlight++
		case busdma.Quarantined:
			want.Quarantined++
		}
		want.Created++
	}
	if got := d.q.pool.Counts(); got != want || d.q.pool.Free() != pooled {
		d.t.Fatalf("after %s: %+v with %d pooled, want %+v with %d", op, got, d.q.pool.Free(), want, pooled)
	}
}

func TestPoolBehavesAsTheNaiveModel(t *testing.T) {
	const steps = 60000
	for name, readOnly := range map[string]bool{"transmit": true, "receive": false} {
		t.Run(name, func(t *testing.T) {
			g := heapgrants.New(t)
			d := &model{t: t, g: g, readOnly: readOnly, bufs: make(map[int][]byte), counts: make(map[string]int)}
			d.random = rand.New(rand.NewPCG(18553, uint64(len(name))))
			var err error
			d.q = new(queue)
			d.q.tag, err = busdma.NewTag(g, busdma.TagConfig{Peer: peer, ReadOnly: readOnly, MaxSegments: 4})
			ok(t, err)
			d.connect()
			for step := range steps {
				op := d.step()
				d.settle()
				d.verify(op)
				if step%100 == 0 && !bytes.Equal(d.pages, d.q.slab.Bytes()) {
					t.Fatalf("step %d, %s: pages contain something else", step, op)
				}
				if d.q.pool.Counts().Quarantined > modelMaps/2 {
					d.disconnect()
					d.connect()
				}
			}
			d.disconnect()
			ok(t, d.q.tag.Destroy())
			// A test that never gets anywhere agrees with everything.
			for _, op := range []string{
				"Take", "TakeRun", "Put", "Load", "LoadRun", "LoadFunc", "Sync", "Publish", "Unload", "Quarantine",
				"Put refused", "Load refused", "LoadRun refused", "LoadFunc refused", "Sync refused", "Publish refused",
				"Unload refused", "Quarantine refused", "peer's write", "completed", "cancelled", "disconnect",
			} {
				least := 100
				switch {
				case op == "peer's write" && readOnly:
					least = 0
				case op == "Quarantine refused", op == "disconnect", op == "cancelled":
					least = 1
				}
				if d.counts[op] < least {
					t.Errorf("%s: only %d times", op, d.counts[op])
				}
			}
			t.Log(d.counts)
		})
	}
}
