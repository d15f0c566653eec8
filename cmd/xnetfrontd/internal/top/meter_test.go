package top

import (
	"errors"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// answer is the answer of a daemon with one vif of one queue.
func answer(pid int, tx, rx map[string]uint64) *control.Status {
	return &control.Status{PID: pid, Program: "1.0", Started: noon.Add(-3 * time.Hour), Vifs: []control.Vif{{
		Match: "0", DevID: 0, TAP: "xnf0", Device: &control.Device{
			State: "Connected", Since: noon.Add(-time.Minute), BackendState: "Connected", Link: &control.LinkCounters{TxDropped: 7},
			Queues: []control.Queue{{
				Tx: control.Direction{Ring: ring.Header{ReqProd: 0x10, RspProd: 0xfffffff0}, Maps: control.MapCounts{Free: 200, InFlight: 56}, OldestInFlight: 12},
				Rx: control.Direction{Ring: ring.Header{ReqProd: 300, RspProd: 44}, Maps: control.MapCounts{InFlight: 256}, OldestInFlight: 9},
				Wait: control.Wait{Carried: 1_000_000, RingBytes: 20_000, RingSeconds: 0.02,
					Qdisc: &control.Qdisc{Kind: "fq_codel", Frames: 3}},
			}},
			Totals: []control.Totals{{Tx: tx, Rx: rx}},
		},
	}}}
}

func TestRatesAreOfTheTimeThatHasPassed(t *testing.T) {
	var m meter
	m.next(answer(1, map[string]uint64{"packets": 1000, "slots": 3000}, nil), nil, noon)
	f := m.next(answer(1, map[string]uint64{"packets": 3000, "slots": 9000, "batches": 1500, "bytes": 1000, "notify_sent": 500}, nil), nil, noon.Add(2*time.Second))
	tx := &f.vifs[0].rows[0]
	for name, c := range map[string]struct {
		got  figure
		want float64
	}{
		"packets": {tx.rate("packets"), 1000}, "bits": {tx.rate("bytes").times(8), 4000},
		"batch": {tx.per("slots", "batches"), 4}, "notifies": {tx.per("notify_sent", "packets").times(1000), 250},
	} {
		if !c.got.known || c.got.value != c.want {
			t.Errorf("%s: %+v, want %v", name, c.got, c.want)
		}
	}
	rx := &f.vifs[0].rows[1]
	if r := rx.rate("packets"); !r.known || r.value != 0 {
		t.Errorf("nothing received: %+v, want a known 0", r)
	}
	if r := rx.per("slots", "batches"); r.known {
		t.Errorf("batch size without a batch: %+v", r)
	}
}

func TestOccupancyIsThatOfTheSharedIndicesAndNeverMoreThanTheRing(t *testing.T) {
	var m meter
	st := answer(1, nil, nil)
	f := m.next(st, nil, noon)
	for i, want := range []uint32{32, 256} { // tx over the wrap of the indices
		if n, ok := f.vifs[0].rows[i].used(); !ok || n != want {
			t.Errorf("row %d: %d, %v; want %d", i, n, ok, want)
		}
	}
	if n, ok := f.vifs[0].rows[0].oldest(); !ok || n != 12 {
		t.Errorf("oldest tx frame: %d, %v", n, ok)
	}
	if _, ok := f.vifs[0].rows[1].oldest(); ok {
		t.Error("an rx buffer has an age")
	}
	st.Vifs[0].Device.Queues[0].Tx.Ring = ring.Header{ReqProd: 5, RspProd: 900} // what a backend may write
	if n, ok := m.next(st, nil, noon).vifs[0].rows[0].used(); ok {
		t.Errorf("an impossible index gives %d slots", n)
	}
	st.Vifs[0].Device.Queues = nil
	if _, ok := m.next(st, nil, noon).vifs[0].rows[0].used(); ok {
		t.Error("a ring is said to be there without a connection")
	}
}

func TestCountersThatGoBackAreNoNegativeRates(t *testing.T) {
	var m meter
	m.next(answer(1, map[string]uint64{"packets": 1000}, map[string]uint64{"packets": 1000}), nil, noon)
	f := m.next(answer(1, map[string]uint64{"packets": 10}, nil), nil, noon.Add(time.Second))
	if r := f.vifs[0].rows[0].rate("packets"); !r.known || r.value != 10 {
		t.Errorf("counter that began anew: %+v, want what has come since", r)
	}
	if r := f.vifs[0].rows[1].rate("packets"); !r.known || r.value != 0 {
		t.Errorf("counter that is gone: %+v, want 0", r)
	}
}

func TestAnotherDaemonIsNotComparedWithTheOneBefore(t *testing.T) {
	var m meter
	packets := func(n uint64) map[string]uint64 { return map[string]uint64{"packets": n} }
	m.next(answer(1, packets(1000), nil), nil, noon)
	f := m.next(answer(2, packets(5000), nil), nil, noon.Add(time.Second))
	if r := f.vifs[0].rows[0].rate("packets"); r.known || !f.fresh {
		t.Errorf("another process: rate %+v", r)
	}
	if f := m.next(nil, errors.New("gone"), noon.Add(2*time.Second)); f.away == nil {
		t.Error("no word of a daemon that does not answer")
	}
	// It may be the same process, but the increase is not that of one interval.
	f = m.next(answer(2, packets(6000), nil), nil, noon.Add(3*time.Second))
	if r := f.vifs[0].rows[0].rate("packets"); r.known || !f.fresh {
		t.Errorf("after a time without an answer: rate %+v", r)
	}
}

func TestVifOrQueueThatComesLaterHasItsFirstRatesOneIntervalLater(t *testing.T) {
	var m meter
	st := answer(1, nil, nil)
	st.Vifs = nil
	m.next(st, nil, noon)
	f := m.next(answer(1, map[string]uint64{"packets": 5}, nil), nil, noon.Add(time.Second))
	if r := f.vifs[0].rows[0].rate("packets"); r.known {
		t.Errorf("new vif: %+v", r)
	}
	more := answer(1, map[string]uint64{"packets": 5}, nil)
	more.Vifs[0].Device.Totals = append(more.Vifs[0].Device.Totals, control.Totals{Number: 1, Tx: map[string]uint64{"packets": 3}})
	f = m.next(more, nil, noon.Add(2*time.Second))
	if r := f.vifs[0].rows[2].rate("packets"); !r.known || r.value != 3 {
		t.Errorf("new queue of a vif that was there: %+v, want all that it counts", r)
	}
}
