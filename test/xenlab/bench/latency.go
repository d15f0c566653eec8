package bench

import (
	"context"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Latency says what is measured of a guest whose vif is busy: what else goes through it
// while it uploads, and what becomes of a sender that nobody paces.
type Latency struct {
	Vifs   []Vif // none is nothing to be measured
	Flows  []int // numbers of TCP uploads at the same time
	Upload int   // how long they are, in seconds
}

// Vif is one of the guest's vifs and the limit that it was plugged with.
type Vif struct{ DevID, Mbit int } // Mbit 0 is no limit

// RateOf is a limit as the toolstack takes it; 0 is none.
func RateOf(mbit int) string {
	if mbit == 0 {
		return ""
	}
	return fmt.Sprintf("%dMb/s", mbit)
}

func (v Vif) title() string {
	if v.Mbit == 0 {
		return "no rate"
	}
	return "rate=" + RateOf(v.Mbit)
}

// Case is a vif with a number of uploads, and what was measured there.
type Case struct {
	Mbit    int        `json:"rate_mbit"` // 0: the vif has no limit
	Uploads int        `json:"uploads"`   // 0: none, but a sender of UDP that nobody paces
	Figures []Measured `json:"figures"`
}

func (c *Case) title() string {
	switch v := (Vif{Mbit: c.Mbit}); c.Uploads {
	case 0:
		return v.title() + ", no upload"
	case 1:
		return v.title() + ", 1 upload"
	default:
		return fmt.Sprintf("%s, %d uploads", v.title(), c.Uploads)
	}
}

// Goals of latency under load: ratios to the kernel's, and a part of what is sent.
const (
	averageGoal   = 1.0
	percentGoal   = 1.2 // of the 95th percentile
	uploadGoal    = 0.97
	deliveredGoal = 0.95
	resentLimit   = 1 // % of a single upload's segments
)

// row is a figure of a case, and where it comes from.
type row[F any] struct {
	Metric
	of func(F) float64
}

// loadRows are the figures of a vif with uploads.
func loadRows(uploads int) []row[load] {
	resent := Metric{ID: "resent", Title: "segments sent again", Unit: "%", Less: true, absolute: true}
	if uploads == 1 {
		resent.Limit = resentLimit
	}
	return []row[load]{
		{Metric{ID: "ping", Title: "ping, average", Unit: "ms", Less: true, Goal: averageGoal}, func(l load) float64 { return l.ping.average }},
		{Metric{ID: "ping-95", Title: "ping, 95th percentile", Unit: "ms", Less: true, Goal: percentGoal}, func(l load) float64 { return l.ping.p95 }},
		{Metric{ID: "ping-most", Title: "ping, most", Unit: "ms", Less: true}, func(l load) float64 { return l.ping.most }},
		{Metric{ID: "ping-lost", Title: "pings lost", Unit: "%", Less: true, absolute: true}, func(l load) float64 { return l.ping.lostPercent() }},
		{Metric{ID: "request", Title: "small requests, average", Unit: "ms", Less: true}, func(l load) float64 { return l.asked.AverageMS }},
		{Metric{ID: "request-95", Title: "small requests, 95th percentile", Unit: "ms", Less: true}, func(l load) float64 { return l.asked.P95MS }},
		{Metric{ID: "jitter", Title: "call's jitter, 95th percentile", Unit: "ms", Less: true}, func(l load) float64 { return l.call.JitterMS }},
		{Metric{ID: "call-lost", Title: "call's packets lost", Unit: "%", Less: true, absolute: true}, func(l load) float64 { return l.callLostPercent() }},
		{Metric{ID: "upload", Title: "uploads together", Unit: "Mbit/s", Goal: uploadGoal}, func(l load) float64 { return l.upload.mbit }},
		{resent, func(l load) float64 { return l.upload.resentPercent() }},
		{Metric{ID: "resent-segments", Title: "segments sent again", Unit: "segments", Less: true, absolute: true}, func(l load) float64 { return l.upload.resent }},
		{Metric{ID: "link-dropped", Title: "dropped by the interface", Unit: "frames", Less: true, absolute: true}, func(l load) float64 { return l.drops.link }},
		{Metric{ID: "qdisc-dropped", Title: "dropped by its qdisc", Unit: "packets", Less: true, absolute: true}, func(l load) float64 { return l.drops.qdisc }},
		{Metric{ID: "qdisc-marked", Title: "marked by its qdisc", Unit: "packets", Less: true, absolute: true}, func(l load) float64 { return l.drops.marked }},
	}
}

// quietRows are the figures of a vif without uploads.
func quietRows() []row[quiet] {
	return []row[quiet]{
		{Metric{ID: "ping", Title: "ping, average", Unit: "ms", Less: true}, func(q quiet) float64 { return q.ping.average }},
		{Metric{ID: "ping-95", Title: "ping, 95th percentile", Unit: "ms", Less: true}, func(q quiet) float64 { return q.ping.p95 }},
		{Metric{ID: "udp-delivered", Title: "UDP, not paced: delivered", Unit: "%", Goal: deliveredGoal}, func(q quiet) float64 { return q.udp.deliveredPercent() }},
		{Metric{ID: "udp-sent", Title: "UDP, not paced: sent", Unit: "packets/s"}, func(q quiet) float64 { return q.udp.sent.PerSecond }},
		{Metric{ID: "udp-dropped", Title: "dropped by the interface", Unit: "frames", Less: true, absolute: true}, func(q quiet) float64 { return q.drops.link }},
		{Metric{ID: "udp-qdisc-dropped", Title: "dropped by its qdisc", Unit: "packets", Less: true, absolute: true}, func(q quiet) float64 { return q.drops.qdisc }},
	}
}

// turn is all that is measured of one frontend while it has one vif.
type turn struct {
	frontend string
	quiet    quiet
	loads    []load // one for each of Flows
}

// takeLatency takes the samples of latency under load. A vif changes hands as often as
// there are samples, for all the figures together.
func (r *Result) takeLatency(ctx context.Context, l *lab.Lab, domU *lab.DomU, o Options) error {
	if len(o.Latency.Vifs) == 0 {
		return nil
	}
	r.Upload = o.Latency.Upload
	for i, v := range o.Latency.Vifs {
		b := &bed{lab: l, domU: domU, devid: v.DevID, builds: o.builds()}
		var turns [][]turn
		for n := range o.Pairs {
			var pair []turn
			for _, frontend := range order(r.Frontends, (n+i)%2 == 1) {
				t, err := b.turn(ctx, frontend, o.Latency)
				if err != nil {
					return fmt.Errorf("latency, %s: %s: %w", v.title(), frontend, err)
				}
				fmt.Fprintf(o.Progress, "pair %d of %d: %s: %s\n", n+1, o.Pairs, v.title(), t.line(o.Latency.Flows))
				pair = append(pair, t)
			}
			turns = append(turns, pair)
		}
		if err := b.leave(ctx); err != nil {
			return err
		}
		r.Latency = append(r.Latency, casesOf(v, o.Latency.Flows, turns)...)
	}
	return nil
}

// casesOf makes the figures of a vif out of its samples.
func casesOf(v Vif, flows []int, turns [][]turn) []Case {
	cases := []Case{{Mbit: v.Mbit, Figures: figuresOf(quietRows(), turns, func(t *turn) quiet { return t.quiet })}}
	for i, uploads := range flows {
		cases = append(cases, Case{Mbit: v.Mbit, Uploads: uploads,
			Figures: figuresOf(loadRows(uploads), turns, func(t *turn) load { return t.loads[i] })})
	}
	return cases
}

func figuresOf[F any](rows []row[F], turns [][]turn, part func(*turn) F) []Measured {
	var all []Measured
	for _, row := range rows {
		m := Measured{Metric: row.Metric}
		for _, pair := range turns {
			var samples []Sample
			for i := range pair {
				samples = append(samples, Sample{Frontend: pair[i].frontend, Value: row.of(part(&pair[i]))})
			}
			m.Samples = append(m.Samples, samples)
		}
		m.sum()
		all = append(all, m)
	}
	return all
}
