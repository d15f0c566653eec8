package metrics

import (
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// ringSize is how many slots a ring of this protocol has.
const ringSize = 256

// queueNow sends the present state of a queue.
func (e emitter) queueNow(vif, number string, q control.Queue) {
	for direction, d := range map[string]*control.Direction{"tx": &q.Tx, "rx": &q.Rx} {
		for state, n := range map[string]uint32{
			"free": d.Maps.Free, "loaded": d.Maps.Loaded, "in_flight": d.Maps.InFlight, "quarantined": d.Maps.Quarantined,
		} {
			e.value(e.maps, float64(n), vif, number, direction, state)
		}
		e.value(e.ringSlots, float64(slotsInUse(d.Ring)), vif, number, direction)
	}
	e.value(e.oldestInFlight, float64(q.Tx.OldestInFlight), vif, number, "tx")
	e.waiting(vif, number, q.Wait)
}

// waiting sends where frames from the guest wait.
func (e emitter) waiting(vif, number string, w control.Wait) {
	qdisc := control.Qdisc{}
	if w.Qdisc != nil {
		qdisc = *w.Qdisc
	}
	e.value(e.waitingBytes, float64(qdisc.Bytes), vif, number, "tx", "qdisc")
	e.value(e.waitingBytes, float64(w.RingBytes), vif, number, "tx", "ring")
	e.value(e.waitingSeconds, w.QdiscSeconds, vif, number, "tx", "qdisc")
	e.value(e.waitingSeconds, w.RingSeconds, vif, number, "tx", "ring")
	e.count(e.qdiscDrops, uint64(qdisc.Dropped), vif, number, "tx")
	e.count(e.qdiscMarks, uint64(qdisc.Marked), vif, number, "tx")
}

// slotsInUse is the number of requests without a response. The backend can write anything into
// both words, so the number is cut to the slots of a ring.
func slotsInUse(h ring.Header) uint32 { return min(h.ReqProd-h.RspProd, ringSize) }

// counted is a counter of a queue that is one series.
type counted struct {
	key    string // in netfront's counters
	f      family
	labels []string // after vif, queue and direction
}

// both are the counters of either direction.
func (e emitter) both() []counted {
	return []counted{
		{key: "packets", f: e.packets},
		{key: "bytes", f: e.bytes},
		{key: "slots", f: e.slots},
		{key: "notify_sent", f: e.notifications, labels: []string{"sent"}},
		{key: "notify_suppressed", f: e.notifications, labels: []string{"suppressed"}},
		{key: "events", f: e.events},
		{key: "events_spurious", f: e.eventsSpurious},
		{key: "super_frames", f: e.superFrames},
		{key: "bounced", f: e.bounced},
		{key: "csum_software", f: e.csumSoftware},
		{key: "segmented", f: e.segmented},
	}
}

// only are the counters of one direction.
func (e emitter) only(direction string) []counted {
	if direction == "tx" {
		return []counted{
			{key: "parked", f: e.parked},
			{key: "announced", f: e.announced},
			{key: "backend_error", f: e.backendResponses, labels: []string{"error"}},
			{key: "backend_dropped", f: e.backendResponses, labels: []string{"dropped"}},
		}
	}
	return []counted{
		{key: "csum_from_validated", f: e.csumGuessed},
		{key: "gso_fixup", f: e.gsoFixup},
	}
}

// dropPrefix begins the names of the counters of dropped frames.
const dropPrefix = "drop_"

// dropCauses are the known causes of drops in a direction. As with causes, another one is
// shown when it happens.
func dropCauses(direction string) []string {
	if direction == "tx" {
		return []string{"malformed", "refused", "too_big"}
	}
	return []string{"backend_error", "malformed", "slots", "tap_error", "too_big"}
}

// totals sends a direction's counters.
func (e emitter) totals(vif, number, direction string, c map[string]uint64) {
	of := func(more ...string) []string { return append([]string{vif, number, direction}, more...) }
	for _, k := range append(e.both(), e.only(direction)...) {
		e.count(k.f, c[k.key], of(k.labels...)...)
	}
	dropped := map[string]uint64{}
	for key, n := range c {
		if cause, ok := strings.CutPrefix(key, dropPrefix); ok {
			dropped[cause] = n
		}
	}
	e.byKey(e.drops, dropped, dropCauses(direction), of()...)
	e.batchSizes(c, of())
}

// Batches are counted by size: from the first up to what is below the second, and so on.
const (
	firstBatch = 1
	lastBatch  = 128
)

// batchSizes sends the histogram of the number of slots that were published at once.
func (e emitter) batchSizes(c map[string]uint64, labels []string) {
	count, buckets := uint64(0), map[float64]uint64{}
	for size := firstBatch; size <= lastBatch; size *= 2 {
		count += c["batch_"+strconv.Itoa(size)]
		if size < lastBatch {
			buckets[float64(2*size-1)] = count
		}
	}
	m, err := prometheus.NewConstHistogram(e.batches.desc, count, float64(c["slots"]), buckets, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(e.batches.desc, err)
	}
	e.ch <- m
}
