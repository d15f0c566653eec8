package netfront

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

const (
	// shapingLook is how often a vif that sends is looked at.
	shapingLook = 100 * time.Millisecond
	// shapingBusy is how many bytes in a time make a vif one that sends.
	shapingBusy = 16 << 10
	// With a limit, super-frames are not longer than what goes in superFrameTime, but
	// superFrameLeast at least: four segments.
	superFrameTime, superFrameLeast = 2 * time.Millisecond, 6000
)

// ShapingMode says whether the guest's frames are held back in its queueing discipline.
type ShapingMode string

// The modes of shaping.
const (
	ShapingOff      ShapingMode = "off"      // switched off in the configuration
	ShapingOpen     ShapingMode = "open"     // nothing is held back: there is no limit, and the backend is fast
	ShapingRate     ShapingMode = "rate"     // to the backend's own limit
	ShapingMeasured ShapingMode = "measured" // to what a slow backend gets done
	ShapingRefused  ShapingMode = "refused"  // it would be, and cannot; the reason says why
)

// ShapingStatus is how a vif's frames are held back.
type ShapingStatus struct {
	Mode   ShapingMode `json:"mode"`
	Reason string      `json:"reason,omitempty"`       // of ShapingRefused
	Limit  uint64      `json:"limit_bytes_per_second"` // of the backend, for each queue; 0: none
	Rates  []uint64    `json:"rates_bytes_per_second"` // of each queue; empty: nothing is held back
	Pushes bool        `json:"tap_stops_when_full"`    // a full TAP stops the queueing discipline, instead of dropping
}

// sendRate is a backend's limit on what its guest sends through each queue: so many bytes
// in each period.
type sendRate struct {
	bytes  uint64
	period time.Duration
}

// maxCreditWait bounds for how long a backend may say that it lets a frame wait for credit.
// The watchdog is that patient, several times over, and the node is the backend's to write.
const maxCreditWait = time.Minute

// rate reads the backend's node rate. One that is refused is said once.
func (d *Device) rate(ctx context.Context, b *bus) sendRate {
	v, err := b.store.Read(ctx, b.backend+"/"+netif.KeyRate)
	if err != nil {
		return sendRate{}
	}
	r := parseRate(v)
	if wait := r.largestWait(); wait > maxCreditWait {
		if !b.rateRefused {
			b.rateRefused = true
			d.log.Warn("the backend's rate is taken for none", problem(fmt.Errorf(
				"%s/%s is %.40q: the largest frame would wait %v for credit, and at most %v are believed",
				b.backend, netif.KeyRate, v, wait, maxCreditWait)), event(EventRate))
		}
		return sendRate{}
	}
	return r
}

// parseRate reads bytes,microseconds. It is the zero rate where there is no limit, or none
// that can be understood, which is what netback makes of it (xen_net_read_rate of
// drivers/net/xen-netback/xenbus.c).
func parseRate(v string) sendRate {
	portion, period, _ := strings.Cut(v, ",")
	bytes, err := strconv.ParseUint(strings.TrimSpace(portion), 10, 32)
	if err != nil || bytes == 0 {
		return sendRate{}
	}
	micros, err := strconv.ParseUint(strings.TrimSpace(period), 10, 32)
	if err != nil || micros == 0 {
		return sendRate{}
	}
	return sendRate{bytes, time.Duration(micros) * time.Microsecond}
}

// perSecond is the rate in bytes a second, 0 for none, and no more than can be set.
func (r sendRate) perSecond() uint64 {
	if r.bytes == 0 {
		return 0
	}
	return uint64(min(max(1, float64(r.bytes)/r.period.Seconds()), tap.MaxShapeRate))
}

// largestWait is how long a backend with the limit can let the largest frame wait: netback
// adds a period's bytes after each, until there are enough for the whole frame
// (tx_credit_exceeded of drivers/net/xen-netback/netback.c).
func (r sendRate) largestWait() time.Duration {
	if r.bytes == 0 {
		return 0
	}
	periods := (netif.MaxTxSize + r.bytes - 1) / r.bytes
	return time.Duration(periods) * r.period
}

// shapedLink is what shaping needs of a TAP.
type shapedLink interface {
	Shape(rates []uint64) error
	Unshape() error
	Shapers() (shapers []tap.Shaper, shaped bool, err error)
	LimitGSO(size int) error
	Pushes() bool
}

// shaping keeps the guest's frames waiting in its queueing discipline, where TCP and
// sockets feel it, instead of in the TAP and on the ring of a slow backend, where they do
// not. It is one connection's, and belongs to the Device's goroutine.
type shaping struct {
	link  shapedLink
	log   *zap.Logger
	show  func(ShapingStatus)
	pairs []*pair

	mode    ShapingMode
	reason  string
	planted bool // the link has a shaper for each queue
	limit   sendRate
	pacers  []pacer
	rates   []uint64 // as they are set
	sent    []uint64 // by each queue, at the last look
	emptied []uint64 // likewise, how often its TAP's queue was seen empty
	last    time.Time
	fast    *time.Ticker
}

// newShaping begins for a connection whose TAP has no carrier yet: nothing waits in a
// discipline that is replaced.
func (d *Device) newShaping(pairs []*pair, r sendRate) *shaping {
	s := d.idleShaping(pairs)
	if s.mode == ShapingOff {
		return s
	}
	s.setLimit(r)
	if r.bytes == 0 {
		s.do(s.link.Unshape())
	}
	s.do(s.link.LimitGSO(r.superFrame()))
	return s
}

// superFrame is how long a super-frame may be that is sent at the rate.
func (r sendRate) superFrame() int {
	if r.bytes == 0 {
		return tap.MaxGSOSize
	}
	return int(min(max(float64(r.perSecond())*superFrameTime.Seconds(), superFrameLeast), tap.MaxGSOSize))
}

// resumeShaping goes on for a connection that was taken over. A link that is not shaped
// stays so until the next connection, as a discipline that is replaced loses frames.
func (d *Device) resumeShaping(pairs []*pair, r sendRate) *shaping {
	s := d.idleShaping(pairs)
	if s.mode == ShapingOff {
		return s
	}
	_, shaped, err := s.link.Shapers()
	switch {
	case err != nil:
		s.refuse(err)
	case shaped:
		s.planted = true
		s.setLimit(r)
	case r.bytes != 0:
		s.refuse(errors.New("from the next connection on: to begin now would lose frames"))
	}
	return s
}

// idleShaping holds nothing back.
func (d *Device) idleShaping(pairs []*pair) *shaping {
	s := &shaping{
		link: d.link, log: d.log, pairs: pairs, mode: ShapingOpen, last: time.Now(),
		show:   func(st ShapingStatus) { d.update(func(v *view) { v.shaping = st }) },
		pacers: make([]pacer, len(pairs)), sent: make([]uint64, len(pairs)), emptied: make([]uint64, len(pairs)),
		fast: time.NewTicker(shapingLook),
	}
	s.fast.Stop()
	if d.cfg.NoShaping {
		s.mode = ShapingOff
	}
	s.publish()
	return s
}

// stop ends the looks. The link stays as it is.
func (s *shaping) stop() { s.fast.Stop() }

// idle tells whether nothing is to be done for this connection.
func (s *shaping) idle() bool { return s.mode == ShapingOff || s.mode == ShapingRefused }

// setLimit begins anew with the backend's limit, as it is now.
func (s *shaping) setLimit(r sendRate) {
	if s.idle() || (r == s.limit && s.planted == (s.rates != nil)) {
		return
	}
	s.limit = r
	for i := range s.pacers {
		s.pacers[i] = newPacer(r.perSecond())
	}
	s.set()
}

// wake is called once in a second: a vif that sends is looked at more often from now on,
// shaped or not, for Status.
func (s *shaping) wake() {
	busy := false
	for i, p := range s.pairs {
		busy = busy || p.tx.published[cBytes].Load()-s.sent[i] > shapingBusy
	}
	if busy {
		s.fast.Reset(shapingLook)
	}
}

// look takes a sample of each queue, and sets the rates anew where that asks for it.
func (s *shaping) look() {
	now := time.Now()
	took := now.Sub(s.last)
	s.last = now
	busy := false
	for i, p := range s.pairs {
		sent := p.tx.published[cBytes].Load()
		h := p.tx.ring.Header()
		x := paceSample{time: took, sent: sent - s.sent[i], low: p.tx.ages.takeLow(), full: h.ReqProd-h.RspProd > p.tx.ring.Size()/2}
		emptied := p.tx.emptied.Load()
		x.behind = emptied == s.emptied[i]
		s.emptied[i] = emptied
		s.sent[i] = sent
		busy = busy || x.sent > 0
		if took > 5*shapingLook {
			s.pacers[i].rest() // hardly anything was sent, or the look was held up
			continue
		}
		s.pacers[i].look(x)
		p.tx.carried.Store(uint64(s.pacers[i].carried))
	}
	if !busy {
		s.fast.Stop()
	}
	if !s.idle() {
		s.set()
	}
}

// set gives the queues the pacers' rates, where one of them has changed.
func (s *shaping) set() {
	rates, held := make([]uint64, len(s.pacers)), false
	for i, p := range s.pacers {
		rates[i] = tap.MaxShapeRate
		if p.rate > 0 {
			rates[i], held = uint64(max(1, min(p.rate, tap.MaxShapeRate))), true
		}
	}
	if slices.EqualFunc(rates, s.rates, alike) || (!held && !s.planted) {
		return
	}
	if err := s.link.Shape(rates); err != nil {
		s.refuse(err)
		return
	}
	s.planted, s.rates = true, rates
	for i, p := range s.pacers {
		s.pairs[i].tx.gather.Store(int64(gatherTime(uint64(p.rate))))
	}
	mode := ShapingOpen
	switch {
	case s.limit.bytes != 0:
		mode = ShapingRate
	case held:
		mode = ShapingMeasured
	}
	if mode != s.mode && mode != ShapingOpen {
		s.log.Info("frames are held back in the guest's queueing discipline", zap.String("mode", string(mode)),
			zap.Uint64s("bytes_per_second", rates), event(EventShaped))
	}
	s.mode = mode
	s.publish()
}

// alike tells whether a rate is so near to another that it is not worth a system call.
func alike(a, b uint64) bool { return max(a, b)-min(a, b) <= b/256 }

// do refuses after an error.
func (s *shaping) do(err error) {
	if err != nil && s.mode != ShapingRefused {
		s.refuse(err)
	}
}

// refuse ends shaping for this connection.
func (s *shaping) refuse(err error) {
	s.mode, s.reason, s.rates = ShapingRefused, err.Error(), nil
	for _, p := range s.pairs {
		p.tx.gather.Store(0)
	}
	// Without a limit there may be nothing to hold back, and whoever has set a discipline, or
	// moved the TAP where this process may not change it, knows.
	if s.limit.bytes != 0 || !errors.Is(err, tap.ErrQdisc) && !errors.Is(err, tap.ErrElsewhere) {
		s.log.Info("frames are not held back in the guest's queueing discipline", problem(err), event(EventNotShaped))
	}
	s.publish()
}

// publish shows what is so now.
func (s *shaping) publish() {
	st := ShapingStatus{Mode: s.mode, Reason: s.reason, Limit: s.limit.perSecond(), Pushes: s.link.Pushes()}
	if s.mode == ShapingRate || s.mode == ShapingMeasured {
		st.Rates = slices.Clone(s.rates)
	}
	s.show(st)
}
