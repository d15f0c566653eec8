package netfront

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// ErrNotConnected says that the vif has no connection at the moment.
var ErrNotConnected = errors.New("vif is not connected")

// Dump is what the rings of a Device are like: the frontend's view of what Linux's
// netback shows in debugfs as io_ring. Each queue's owner makes its part between two
// batches, so that what is in one [RingDump] belongs together.
type Dump struct {
	DevID        int         `json:"devid"`
	TAP          string      `json:"tap"`
	State        string      `json:"state"`
	BackendState string      `json:"backend_state"`
	Taken        time.Time   `json:"taken"`
	Queues       []QueueDump `json:"queues"`
}

// QueueDump is one queue pair.
type QueueDump struct {
	Number int       `json:"number"`
	Tx     *RingDump `json:"tx,omitempty"` // nil when its worker gave none
	Rx     *RingDump `json:"rx,omitempty"`
	// Problem is why one is missing: a worker that does not answer is stuck.
	Problem string `json:"problem,omitempty"`
}

// RingDump is one ring, its maps, and its event channel.
type RingDump struct {
	Ref    uint32 `json:"ref"`    // grant of the ring's page
	Port   uint32 `json:"port"`   // event channel
	Masked bool   `json:"masked"` // an event was delivered and not written back yet
	Size   uint32 `json:"size"`   // slots
	// Shared are the words in the ring's page. The backend can write all of them.
	Shared ring.Header `json:"shared"`
	// ReqProd (req_prod_pvt), Published and RspCons are this side's own indices.
	ReqProd   uint32    `json:"req_prod_pvt"`
	Published uint32    `json:"published"` // what this side last stored in req_prod
	RspCons   uint32    `json:"rsp_cons"`
	Maps      MapCounts `json:"maps"`
	// Waiting is that a tx queue has frames to send and no maps or slots for them.
	Waiting bool `json:"waiting,omitempty"`
	// Partial is how many responses are there of an rx frame whose end is not.
	Partial uint32 `json:"partial,omitempty"`
	// Responses are those that are there and were not taken, as bytes in hexadecimal: the
	// first few.
	Responses []string   `json:"responses,omitempty"`
	InFlight  []InFlight `json:"in_flight"` // without a response that was taken, oldest request first
}

// InFlight is one map that the backend may use: a part of a tx frame, or an rx buffer.
type InFlight struct {
	ID    uint16 `json:"id"`
	Ref   uint32 `json:"ref"`   // its grant
	Index uint32 `json:"index"` // of its request
	Slot  uint32 `json:"slot"`  // where on the ring that was written
	// Age is how long it has been in flight, in seconds and to a second; of tx alone, rx
	// buffers wait for frames.
	Age uint32 `json:"age_seconds,omitempty"`
}

// dumpRequest asks a worker for its queues. The worker fills it in and closes done.
type dumpRequest struct {
	tx, rx *RingDump
	done   chan struct{}
}

// Dump returns what the rings are like now. It fails with [ErrNotConnected] if there are
// none. A worker that does not answer before ctx ends is left out, and Problem says so.
// Any goroutine may call it.
func (d *Device) Dump(ctx context.Context) (*Dump, error) {
	d.dumping.Lock() // a worker has one request at a time
	defer d.dumping.Unlock()
	d.mu.Lock()
	v, devid := d.view, d.cfg.DevID
	d.mu.Unlock()
	if !v.running() {
		return nil, ErrNotConnected
	}
	return &Dump{
		DevID: devid, TAP: d.link.Name(), State: v.state.String(), BackendState: v.backendState.String(), Taken: time.Now(),
		Queues: dumpPairs(ctx, v.pairs),
	}, nil
}

// running tells whether there are rings with workers.
func (v *view) running() bool {
	return len(v.pairs) > 0 && v.pairs[0].workers[0].started.Load()
}

// dumpPairs asks every worker before it waits for one: with one that is stuck, the others
// have answered all the same.
func dumpPairs(ctx context.Context, pairs []*pair) []QueueDump {
	var requests []*dumpRequest
	for _, p := range pairs {
		for _, w := range p.workers {
			r := &dumpRequest{done: make(chan struct{})}
			w.dump.Store(r)
			w.tell(controlDump)
			requests = append(requests, r)
		}
	}
	queues := make([]QueueDump, 0, len(pairs))
	for _, p := range pairs {
		n := len(p.workers)
		queues = append(queues, p.dump(ctx, requests[:n]))
		requests = requests[n:]
	}
	return queues
}

// dump is what the pair's workers answer to their requests.
func (p *pair) dump(ctx context.Context, requests []*dumpRequest) QueueDump {
	q := QueueDump{Number: p.number}
	for i, r := range requests {
		if problem := p.workers[i].awaitDump(ctx, r); problem != "" {
			q.Problem = fmt.Sprintf("worker %d %s", i, problem)
			continue
		}
		if r.tx != nil {
			q.Tx = r.tx
			q.Tx.Ref, q.Tx.Port = uint32(p.rings.Refs()[0]), uint32(p.txPort)
		}
		if r.rx != nil {
			q.Rx = r.rx
			q.Rx.Ref, q.Rx.Port = uint32(p.rings.Refs()[1]), uint32(p.rxPort)
		}
	}
	return q
}

// awaitDump waits until the request is filled in, or says why it will not be.
func (w *worker) awaitDump(ctx context.Context, r *dumpRequest) (problem string) {
	select {
	case <-r.done:
		return ""
	case <-w.done:
		problem = "has ended"
	case <-ctx.Done():
		problem = "does not answer"
	}
	select {
	case <-r.done: // and before that it has answered, or while another one was waited for
		return ""
	default:
		w.dump.CompareAndSwap(r, nil) // else it has taken it, and nobody will look
		return problem
	}
}

// answerDump fills in the request that was made, if it stands.
func (w *worker) answerDump() {
	r := w.dump.Swap(nil)
	if r == nil {
		return
	}
	if w.tx != nil {
		r.tx = w.tx.dump()
		r.tx.Masked = w.pending > 0
	}
	if w.rx != nil {
		r.rx = w.rx.dump()
		r.rx.Masked = w.pending > 0
	}
	close(r.done)
}

func (q *txQueue) dump() *RingDump {
	d := dumpRing(q.ring, q.pool)
	d.Waiting = q.parked
	for i := range q.slab.Pages() {
		if m, ok := q.pool.At(i); ok && m.State() == busdma.InFlight {
			x := inFlight(m, q.ages.index[i], d.Size)
			x.Age = q.ages.age(i)
			d.InFlight = append(d.InFlight, x)
		}
	}
	sortByRequest(d.InFlight, d.ReqProd)
	return d
}

func (q *rxQueue) dump() *RingDump {
	d := dumpRing(q.ring, q.pool)
	d.Partial = q.partial
	for i := d.RspCons; i != d.ReqProd; i++ {
		if m, ok := q.pool.At(int(q.state.posted[i&(d.Size-1)])); ok {
			d.InFlight = append(d.InFlight, inFlight(m, i, d.Size))
		}
	}
	return d
}

// dumpRing is what both directions have in common.
func dumpRing[S ring.Slot](r *ring.Front[S], pool *busdma.Pool) *RingDump {
	d := &RingDump{
		Size: r.Size(), Shared: r.Header(),
		ReqProd: r.Produced(), Published: r.Produced() - r.Unpublished(), RspCons: r.Consumed(),
		Maps: mapCounts(pool), InFlight: []InFlight{},
	}
	for i := range min(d.Shared.RspProd-d.RspCons, maxEvidence) {
		d.Responses = append(d.Responses, fmt.Sprintf("%x", r.Response(i)))
	}
	return d
}

func inFlight(m *busdma.Map, index, size uint32) InFlight {
	return InFlight{ID: uint16(m.Index()), Ref: uint32(m.Ref()), Index: index, Slot: index & (size - 1)}
}

// sortByRequest puts the oldest request first. A request can be older than the last
// response: they are answered in any order.
func sortByRequest(list []InFlight, produced uint32) {
	slices.SortFunc(list, func(a, b InFlight) int { return cmp.Compare(int32(a.Index-produced), int32(b.Index-produced)) })
}

// Kick notifies the backend and has every worker look at its queues, as if there had
// been an event: the answer to an event that was lost. It fails with [ErrNotConnected].
// Any goroutine may call it.
func (d *Device) Kick() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.view.running() {
		return ErrNotConnected
	}
	for _, p := range d.view.pairs {
		for _, w := range p.workers {
			w.tell(controlKick)
		}
	}
	return nil
}
