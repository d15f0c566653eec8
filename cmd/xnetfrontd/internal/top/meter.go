// Package top shows the traffic of a running daemon, interval after interval. On a terminal it
// draws in place; elsewhere it appends lines.
package top

import (
	"slices"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// ringSize is the number of slots of every ring of a vif: the protocol has rings of one page
// only.
var ringSize = map[string]uint32{"tx": ring.Size[netif.TxSlot](), "rx": ring.Size[netif.RxSlot]()}

// frame is the picture of one interval.
type frame struct {
	at     time.Time
	away   error           // why no daemon has answered; then the other fields are empty
	status *control.Status //
	fresh  bool            // the first answer of a process: there are no rates
	vifs   []vif
}

// vif is a vif in an interval.
type vif struct {
	control.Vif
	rows []row
	// Of the TAP: what the kernel could not put into its queues.
	tapDrops, tapDropsTotal uint64
}

// row is one direction of a queue in an interval.
type row struct {
	queue int
	name  string // of the direction
	now   *control.Direction
	total map[string]uint64
	moved map[string]uint64 // the increase of the counters; nil: not known
	every float64           // seconds in which they moved
}

// meter makes frames of a daemon's answers.
type meter struct {
	last frame
}

// next is the frame that ends with an answer, or with none.
func (m *meter) next(st *control.Status, err error, now time.Time) frame {
	f := frame{at: now, status: st, away: err, fresh: true}
	if err != nil {
		m.last = f
		return f
	}
	before := &m.last
	// Another process begins to count at zero.
	if before.status != nil && before.status.PID == st.PID && before.status.Started.Equal(st.Started) {
		f.fresh = false
	}
	every := now.Sub(before.at).Seconds()
	for _, v := range st.Vifs {
		var was *vif
		if i := slices.IndexFunc(before.vifs, func(o vif) bool { return o.Match == v.Match && o.MAC == v.MAC && o.TAP == v.TAP }); i >= 0 && !f.fresh {
			was = &before.vifs[i]
		}
		f.vifs = append(f.vifs, newVif(v, was, every))
	}
	m.last = f
	return f
}

// newVif compares a vif with what it was every seconds ago, or nil.
func newVif(v control.Vif, was *vif, every float64) vif {
	n := vif{Vif: v}
	if v.Device == nil {
		return n
	}
	if l := v.Device.Link; l != nil {
		n.tapDropsTotal = l.TxDropped
		if was != nil {
			n.tapDrops = since(l.TxDropped, was.tapDropsTotal)
		}
	}
	for _, t := range v.Device.Totals {
		var now *control.Queue
		if i := slices.IndexFunc(v.Device.Queues, func(q control.Queue) bool { return q.Number == t.Number }); i >= 0 {
			now = &v.Device.Queues[i]
		}
		tx := row{queue: t.Number, name: "tx", total: t.Tx, every: every}
		rx := row{queue: t.Number, name: "rx", total: t.Rx, every: every}
		if now != nil {
			tx.now, rx.now = &now.Tx, &now.Rx
		}
		for _, r := range []row{tx, rx} {
			if was != nil {
				r.moved = moved(r.total, was.totalOf(r.queue, r.name))
			}
			n.rows = append(n.rows, r)
		}
	}
	return n
}

// totalOf are the counters of a direction. They are empty if there was no such queue yet.
func (v *vif) totalOf(queue int, name string) map[string]uint64 {
	for _, r := range v.rows {
		if r.queue == queue && r.name == name {
			return r.total
		}
	}
	return nil
}

// moved is the increase of counters. A counter that went down has begun at zero meanwhile.
func moved(now, before map[string]uint64) map[string]uint64 {
	m := make(map[string]uint64, len(now))
	for k, n := range now {
		if d := since(n, before[k]); d != 0 {
			m[k] = d
		}
	}
	return m
}

func since(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// figure is a number that may not be known.
type figure struct {
	value float64
	known bool
}

// rate is the increase of a counter in a second.
func (r *row) rate(counter string) figure {
	if r.moved == nil || r.every <= 0 {
		return figure{}
	}
	return figure{float64(r.moved[counter]) / r.every, true}
}

// per is the increase of a counter for each of another; it is not known if the other did not
// move.
func (r *row) per(counter, other string) figure {
	if r.moved[other] == 0 {
		return figure{}
	}
	return figure{float64(r.moved[counter]) / float64(r.moved[other]), true}
}

// times is f multiplied.
func (f figure) times(n float64) figure { return figure{f.value * n, f.known} }

// used is the number of slots of the ring that the backend has: tx requests without an answer,
// or rx buffers. The backend can write the shared words; ok is false if they make no sense.
func (r *row) used() (slots uint32, ok bool) {
	if r.now == nil {
		return 0, false
	}
	n := r.now.Ring.ReqProd - r.now.Ring.RspProd
	return n, n <= ringSize[r.name]
}

// oldest is the age of the oldest tx frame at the backend, in seconds.
func (r *row) oldest() (seconds uint32, ok bool) {
	if n, known := r.used(); r.name != "tx" || !known || n == 0 {
		return 0, false
	}
	return r.now.OldestInFlight, true
}
