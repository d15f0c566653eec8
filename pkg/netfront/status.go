package netfront

import (
	"maps"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// Status is a snapshot of a Device.
type Status struct {
	DevID        int               `json:"devid"`
	TAP          string            `json:"tap"`                // its name now: somebody may have renamed it
	IfIndex      int               `json:"ifindex"`            // in its network namespace
	NetNS        string            `json:"netns,omitempty"`    // the TAP's network namespace, if somebody has moved it: its name, or net:[inode]
	LinkUp       bool              `json:"link_up"`            // the TAP is up: somebody may have set it down
	MAC          string            `json:"mac"`                // the vif's
	LinkMAC      string            `json:"link_mac,omitempty"` // the TAP's, if somebody has given it another
	MTU          int               `json:"mtu"`                // the TAP's now; 0: not known
	State        string            `json:"state"`              // ours, as xenbus names it
	Since        time.Time         `json:"since"`              // of State
	Reason       string            `json:"reason"`             // why the last connection ended, or why there is none
	Off          string            `json:"off,omitempty"`      // why nothing is tried with the backend any more, until [Device.Retry]; empty: it is
	Violations   int               `json:"violations"`         // of the protocol, by the backend's domain, as far as they are held against it
	Awaits       string            `json:"awaits,omitempty"`   // what the backend lacks, if it is waited for without an end
	Backend      string            `json:"backend"`            // path of its directory
	BackendDomID uint16            `json:"backend_domid"`      //
	BackendState string            `json:"backend_state"`
	BackendSince time.Time         `json:"backend_since"`   // of BackendState, as far as it was seen
	Disabled     bool              `json:"disabled"`        // the toolstack has disabled the vif: no carrier
	Connects     uint64            `json:"connects"`        // connections since the start, rebinds of the backend among them
	TakenOver    bool              `json:"taken_over"`      // the connection that stands was begun by an earlier process
	Ended        map[string]uint64 `json:"ended,omitempty"` // connections that ended, by cause
	Features     Features          `json:"features"`
	Missing      map[string]string `json:"missing,omitempty"`    // feature: why it is not there
	Queues       []QueueStatus     `json:"queues"`               // of the connection that stands
	Totals       []QueueTotals     `json:"totals"`               // of every queue that there has been
	Stations     []string          `json:"stations,omitempty"`   // what is behind the TAP: MAC addresses, with VLAN and IP addresses; the first 64
	Announcing   int               `json:"announcing,omitempty"` // announcements of these that are to be repeated yet
	Grants       int               `json:"grants"`               // pages granted by this device, those for its next connection among them
	GrantLimit   int               `json:"grant_limit"`          // pages that the guest may grant, others than this device among them; 0: not known
	Link         *tap.Stats        `json:"link,omitempty"`
	Shaping      ShapingStatus     `json:"shaping"` // how the guest's frames are held back
	// MTURefused is what the toolstack says of the MTU, if that cannot be used.
	MTURefused string `json:"mtu_refused,omitempty"`
	// Reported are the addresses that the toolstack was told.
	Reported []string `json:"reported_addresses,omitempty"`
	// NoUring says why frames go to and from the TAP without io_uring; empty: with it.
	NoUring string `json:"no_io_uring,omitempty"`
}

// QueueStatus is one queue pair.
type QueueStatus struct {
	Number int             `json:"number"`
	Tx     DirectionStatus `json:"tx"`
	Rx     DirectionStatus `json:"rx"`
	Wait   WaitStatus      `json:"wait"` // of frames from the guest
}

// WaitStatus is where frames on their way from the guest wait, and about how long: what
// is there, by what the queue has carried lately. The times are 0 while it carries
// nothing.
type WaitStatus struct {
	// Qdisc is the guest's queueing discipline; nil where the queue has none of its own.
	Qdisc        *tap.Shaper `json:"qdisc,omitempty"`
	QdiscSeconds float64     `json:"qdisc_seconds"`
	RingBytes    uint32      `json:"ring_bytes"` // with the backend
	RingSeconds  float64     `json:"ring_seconds"`
	Carried      uint64      `json:"carried_bytes_per_second"`
}

// QueueTotals are a queue pair's counters since the Device was opened, over all its
// connections: they never go back. Those that are zero are left out.
type QueueTotals struct {
	Number int               `json:"number"`
	Tx     map[string]uint64 `json:"tx"`
	Rx     map[string]uint64 `json:"rx"`
}

// DirectionStatus is a txQueue or an rxQueue.
type DirectionStatus struct {
	Counters map[string]uint64 `json:"counters"` // those that are not zero
	Maps     MapCounts         `json:"maps"`
	Ring     ring.Header       `json:"ring"` // the shared words, as they are now
	// OldestInFlight is for how many seconds the backend has had the oldest request
	// without an answer, to a second. Of tx only: rx buffers wait for frames.
	OldestInFlight uint32 `json:"oldest_in_flight_seconds,omitempty"`
}

// MapCounts says in which state a pool's maps are. The first four add up to the
// last: each map is in exactly one.
type MapCounts struct {
	Free        uint32 `json:"free"`
	Loaded      uint32 `json:"loaded"`
	InFlight    uint32 `json:"in_flight"`
	Quarantined uint32 `json:"quarantined"`
	Created     uint32 `json:"created"`
}

// view is what Run's goroutine shows to others.
type view struct {
	state        netif.State
	since        time.Time
	reason       error
	awaits       string
	off          string
	violations   int
	address      address
	backendState netif.State
	backendSince time.Time
	disabled     bool
	reported     []string
	connects     uint64
	takenOver    bool
	ended        map[string]uint64
	agreed       agreement
	pairs        []*pair
	granted      int           // pages
	shaping      ShapingStatus // of the connection that stands
	announcing   int
	stations     []string
	before       []QueueTotals // by number; of the connections that have ended
}

// Status returns what the Device is doing. Figures of queues are as of their last
// batch, and belong to the connection that stands.
func (d *Device) Status() Status {
	s := d.status()
	// These ask the kernel, where somebody else can hold the lock of all links: Run and
	// Alive must not wait for d.mu meanwhile.
	if limit, err := d.guest.Grants.Limit(); err == nil {
		s.GrantLimit = limit
	}
	st, err := d.link.State()
	if err != nil {
		return s
	}
	if err := d.link.UringError(); err != nil {
		s.NoUring = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	s.TAP, s.NetNS = st.Name, st.Namespace
	if st.MAC.String() != s.MAC {
		s.LinkMAC = st.MAC.String()
	}
	if st.Known {
		s.IfIndex, s.MTU, s.LinkUp, s.Link = st.Index, st.MTU, st.Up, &st.Stats
		if shapers, _, err := d.link.Shapers(); err == nil {
			s.addShapers(shapers)
		}
	}
	return s
}

// addShapers adds what waits in the guest's queueing disciplines.
func (s *Status) addShapers(shapers []tap.Shaper) {
	for i := range s.Queues {
		w := &s.Queues[i].Wait
		if i < len(shapers) {
			w.Qdisc = &shapers[i]
			w.QdiscSeconds = secondsFor(uint64(w.Qdisc.Bytes), w.Carried)
		}
	}
}

// secondsFor is how long bytes take at a rate in bytes a second.
func secondsFor(bytes, rate uint64) float64 {
	if rate == 0 {
		return 0
	}
	return float64(bytes) / float64(rate)
}

// status is Status without what the kernel knows.
func (d *Device) status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := &d.view
	s := Status{
		DevID: d.cfg.DevID, MAC: d.id.mac.String(),
		State: v.state.String(), Since: v.since,
		Backend: v.address.backend, BackendDomID: uint16(v.address.domid), BackendState: v.backendState.String(), BackendSince: v.backendSince,
		Awaits: v.awaits, Disabled: v.disabled, Connects: v.connects, TakenOver: v.takenOver, Ended: maps.Clone(v.ended), Announcing: v.announcing, Stations: v.stations, Features: v.agreed.Features, Missing: v.agreed.missing, Queues: []QueueStatus{},
	}
	if d.cfg.MTU == 0 {
		s.MTURefused = d.id.refused
	}
	if v.reason != nil {
		s.Reason = strings.ReplaceAll(v.reason.Error(), "\n", "; ") // of errors.Join
	}
	if v.pairs != nil {
		s.Shaping = v.shaping
	}
	for _, p := range v.pairs {
		s.Queues = append(s.Queues, QueueStatus{Number: p.number, Tx: p.txStatus(), Rx: p.rx.status(), Wait: p.tx.waiting()})
	}
	s.Reported, s.Grants = v.reported, v.granted
	s.Off, s.Violations = v.off, v.violations
	s.Totals = addPairs(v.before, v.pairs)
	return s
}

func (q *txQueue) status() DirectionStatus {
	return DirectionStatus{Counters: q.snapshot(), Maps: q.maps.read(), Ring: q.ring.Header(), OldestInFlight: q.unansweredFor()}
}

// waiting is what waits on the ring.
func (q *txQueue) waiting() WaitStatus {
	w := WaitStatus{RingBytes: q.ages.inFlight.Load(), Carried: q.carried.Load()}
	w.RingSeconds = secondsFor(uint64(w.RingBytes), w.Carried)
	return w
}

// txStatus is the tx queue's status, with the frames that the kernel took out of the TAP's
// queue and could not hand over, which only the reader knows of.
func (p *pair) txStatus() DirectionStatus {
	s := p.tx.status()
	if n := p.reader.Refused(); n != 0 {
		s.Counters[counterNames[cDropRefused]] = n
	}
	return s
}

// unansweredFor is for how many seconds the oldest request has had no answer. The queue
// takes responses when it needs maps, and not before: what has been answered does not grow
// older meanwhile.
func (q *txQueue) unansweredFor() uint32 {
	if h := q.ring.Header(); h.RspProd == h.ReqProd {
		return 0
	}
	return q.ages.oldestFor()
}

func (q *rxQueue) status() DirectionStatus {
	return DirectionStatus{Counters: q.snapshot(), Maps: q.maps.read(), Ring: q.ring.Header()}
}

func (d *Device) update(f func(v *view)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(&d.view)
}

// setState notes our state and, if reason is not nil, why it is so.
func (d *Device) setState(st netif.State, reason error) {
	d.update(func(v *view) {
		if v.state != st {
			v.since = time.Now()
		}
		v.state, v.reason = st, reason
		if st == netif.StateConnected {
			v.connects++
			v.setBackend(st)
		}
	})
	d.log.Debug("state", zap.Stringer("state", st))
}

// setEnded counts a connection that ended for cause.
func (d *Device) setEnded(cause string) {
	d.update(func(v *view) {
		if v.ended == nil {
			v.ended = make(map[string]uint64)
		}
		v.ended[cause]++
	})
}

func (d *Device) setBackendState(st netif.State) {
	d.update(func(v *view) { v.setBackend(st) })
}

// setBackend notes the backend's state, and since when it is so.
func (v *view) setBackend(st netif.State) {
	if v.backendState != st || v.backendSince.IsZero() {
		v.backendState, v.backendSince = st, time.Now()
	}
}

// setAwaits notes what the backend lacks, and says it when it is something new.
func (d *Device) setAwaits(what string) {
	d.mu.Lock()
	was := d.view.awaits
	d.view.awaits = what
	d.mu.Unlock()
	if what != "" && what != was {
		d.log.Warn("waiting for the backend", zap.String("awaits", what), event(EventAwaits))
	}
}

func (d *Device) setAddress(a address) {
	d.update(func(v *view) { v.address = a })
}

// setPairs notes the pairs of a connection that begins, or with nil that it has ended:
// then their workers must be stopped.
func (d *Device) setPairs(pairs []*pair, a agreement) {
	d.update(func(v *view) {
		v.before = addPairs(v.before, v.pairs)
		d.capture.leave(v.pairs)
		v.pairs = pairs
		d.capture.join(v, v.reason)
		v.takenOver = false
		if pairs != nil {
			v.agreed = a
		}
	})
}

// addPairs returns totals with the counters of pairs in them.
func addPairs(totals []QueueTotals, pairs []*pair) []QueueTotals {
	sum := make([]QueueTotals, 0, max(len(totals), len(pairs)))
	for _, t := range totals {
		sum = append(sum, QueueTotals{t.Number, maps.Clone(t.Tx), maps.Clone(t.Rx)})
	}
	for i, p := range pairs {
		if i == len(sum) {
			sum = append(sum, QueueTotals{i, map[string]uint64{}, map[string]uint64{}})
		}
		for k, n := range p.txStatus().Counters {
			sum[i].Tx[k] += n
		}
		for k, n := range p.rx.snapshot() {
			sum[i].Rx[k] += n
		}
	}
	return sum
}

// mapCounts returns a pool's counts.
func mapCounts(p *busdma.Pool) MapCounts {
	c := p.Counts()
	return MapCounts{Free: uint32(c.Free), Loaded: uint32(c.Loaded), InFlight: uint32(c.InFlight),
		Quarantined: uint32(c.Quarantined), Created: uint32(c.Created)}
}
