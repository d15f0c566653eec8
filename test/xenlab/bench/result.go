package bench

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Result is a whole run, as it is saved.
type Result struct {
	When    time.Time       `json:"when"`
	Machine figures.Machine `json:"machine"` // the host
	Xen     string          `json:"xen"`
	Dom0    string          `json:"dom0_kernel"`
	Guest   string          `json:"guest_kernel"`
	Type    string          `json:"guest_type"` // see lab.DomUConfig
	Pairs   int             `json:"pairs"`
	Seconds int             `json:"seconds"` // of one sample
	// Frontends are those that were compared, the kernel's first.
	Frontends []string   `json:"frontends"`
	Metrics   []Measured `json:"metrics"`
	// Upload is how long the uploads of Latency were, in seconds.
	Upload  int    `json:"upload_seconds,omitempty"`
	Latency []Case `json:"latency,omitempty"`
}

// Measured is a metric with all its samples.
type Measured struct {
	Metric
	// Samples are pairs, each in the order in which it was taken.
	Samples [][]Sample `json:"samples"`
	// Ratio is computed from Samples, for readers of the file. It is nil where there is
	// none, as to a kernel's figure that is 0.
	Ratio *figures.Spread `json:"ratio_to_xen_netfront,omitempty"`
}

// Sample is one measurement with one frontend.
type Sample struct {
	Frontend string  `json:"frontend"`
	Value    float64 `json:"value"`          // in the metric's unit
	Mean     float64 `json:"mean,omitempty"` // of pings
	// Events are the notifications that netback got meanwhile, Spurious those of them
	// that found nothing to do.
	Events   uint64 `json:"netback_events,omitempty"`
	Spurious uint64 `json:"netback_spurious_events,omitempty"`
}

func valueOf(s Sample) float64    { return s.Value }
func meanOf(s Sample) float64     { return s.Mean }
func eventsOf(s Sample) float64   { return float64(s.Events) }
func spuriousOf(s Sample) float64 { return float64(s.Spurious) }

// describe notes what is booted.
func (r *Result) describe(ctx context.Context, l *lab.Lab, domU *lab.DomU) error {
	for _, q := range []struct {
		to    *string
		guest *lab.Guest
		ask   string
	}{
		{&r.Xen, l.Dom0(), "cd /sys/hypervisor/version; echo $(cat major).$(cat minor)$(cat extra)"},
		{&r.Dom0, l.Dom0(), "uname -r"},
		{&r.Guest, domU.Guest, "uname -r"},
	} {
		out, err := q.guest.Shell(ctx, q.ask)
		if err != nil {
			return err
		}
		*q.to = strings.TrimSpace(out)
	}
	r.Type = domU.Config.Type
	return nil
}

// figuresOf are a frontend's figures, one for each pair.
func (m *Measured) figuresOf(frontend string, figure func(Sample) float64) []float64 {
	var all []float64
	for _, pair := range m.Samples {
		for _, s := range pair {
			if s.Frontend == frontend {
				all = append(all, figure(s))
			}
		}
	}
	return all
}

// ratios are our figures, each divided by the kernel's of the same pair.
func (m *Measured) ratios(figure func(Sample) float64) []float64 { return m.ratiosOf(Ours, figure) }

// ratiosOf is ratios for any frontend.
func (m *Measured) ratiosOf(frontend string, figure func(Sample) float64) []float64 {
	ratios, kernels := m.figuresOf(frontend, figure), m.figuresOf(Kernel, figure)
	for i := range ratios {
		ratios[i] /= kernels[i]
	}
	return ratios
}

// spreadOf is the spread of a frontend's ratios, or nil if one of them is no number.
func (m *Measured) spreadOf(frontend string) *figures.Spread {
	ratios := m.ratiosOf(frontend, valueOf)
	for _, v := range ratios {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
	}
	s := figures.SpreadOf(ratios)
	return &s
}

// sum computes what comes out of the samples.
func (m *Measured) sum() {
	if !m.absolute {
		m.Ratio = m.spreadOf(Ours)
	}
}

// missed says in a line that the goal, or the limit, was not reached, even if it may be
// missed so many times; it is empty if it was, or if there is none.
func (m *Measured) missed(slack float64) string {
	bound := func(v float64) float64 {
		if m.Less {
			return v * slack
		}
		return v / slack
	}
	switch median := figures.SpreadOf(m.figuresOf(Ours, valueOf)).Median; {
	case m.Limit != 0 && !figures.Meets(median, bound(m.Limit), m.Less):
		return fmt.Sprintf("%s: %s %s, the goal is %s", m.Title, figures.Number(median), m.Unit, figures.Number(m.Limit))
	case m.Goal == 0:
		return ""
	}
	if ratio := figures.SpreadOf(m.ratios(valueOf)).Median; !figures.Meets(ratio, bound(m.Goal), m.Less) {
		return fmt.Sprintf("%s: %s of the kernel's, the goal is %s", m.Title, figures.Number(ratio), figures.Number(m.Goal))
	}
	return ""
}

// Missed lists the goals that were not reached, one line for each.
func (r *Result) Missed() []string { return r.MissedBy(1) }

// MissedBy lists the goals that were missed by more than so many times.
func (r *Result) MissedBy(slack float64) []string {
	var lines []string
	for i := range r.Metrics {
		if line := r.Metrics[i].missed(slack); line != "" {
			lines = append(lines, line)
		}
	}
	for i := range r.Latency {
		c := &r.Latency[i]
		for j := range c.Figures {
			if line := c.Figures[j].missed(slack); line != "" {
				lines = append(lines, c.title()+": "+line)
			}
		}
	}
	return lines
}

// Save writes r as JSON and as a chart into dir, and returns the paths.
func (r *Result) Save(dir string) ([]string, error) {
	svg, err := r.chart()
	if err != nil {
		return nil, err
	}
	return figures.Save(dir, r.When, "-xen", r, svg)
}
