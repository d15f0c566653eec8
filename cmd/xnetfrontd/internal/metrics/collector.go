// Package metrics exposes the daemon's metrics to Prometheus. A [Collector] makes them of the
// daemon's status, and a [Server] serves them on sockets. docs/metrics.md explains each
// metric.
package metrics

import (
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// Source is where the values come from. Several goroutines call its functions at a time, but
// never one that carries frames.
type Source struct {
	Status func() control.Status

	// HandoverReady tells whether a restart would lose nothing. Nil: a restart would lose
	// something.
	HandoverReady func() bool

	// Panicked takes the value of a panic in one of the others, and returns the error for the
	// scrape. The stack still shows the panic when it is called. It must be set.
	Panicked func(what string, value any) error
}

// faultError is an error that Source.Panicked returned.
type faultError struct{ error }

// Collector is a [prometheus.Collector]. Each scrape asks the source once, and the Collector
// keeps nothing. So a vif that is gone has no series any more.
type Collector struct {
	source Source
	names  *families
}

// NewCollector makes a Collector.
func NewCollector(s Source) *Collector { return &Collector{s, newFamilies()} }

// NewRegistry has all metrics of the daemon: those of the Collector, and client_golang's of
// the Go runtime and the process.
func NewRegistry(s Source) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		NewCollector(s),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return r, nil
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.names.all {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	e := emitter{ch, c.names}
	defer func() {
		if p := recover(); p != nil {
			ch <- prometheus.NewInvalidMetric(c.names.build.desc, faultError{c.source.Panicked("metrics", p)})
		}
	}()
	s := c.source.Status()
	e.value(e.build, 1, s.Program, runtime.Version())
	// The process collector has no process_start_time_seconds in the daemon's unit, where
	// /proc has nothing but processes (ProcSubset=pid).
	e.value(e.started, seconds(s.Started))
	e.value(e.handoverReady, flag(c.source.HandoverReady != nil && c.source.HandoverReady()))
	late := time.Duration(0)
	if !s.EventsLateSince.IsZero() {
		late = time.Since(s.EventsLateSince)
	}
	e.value(e.eventsLateFor, late.Seconds())
	e.count(e.eventsLate, s.EventsLate)
	if n := grantLimit(&s); n > 0 {
		e.value(e.grantLimit, float64(n))
	}
	// While a reload replaces a vif's table, the status can have the vif twice: as one that
	// stops, and as one that the daemon waits for. Two series of one name would spoil the
	// whole scrape.
	seen := map[string]bool{}
	for i := range s.Vifs {
		v := &s.Vifs[i]
		if name := v.Name(); !seen[name] {
			seen[name] = true
			e.vif(label(name), v)
		}
	}
}

// grantLimit is the guest's limit of granted pages, as its vifs know it; 0: none of them does.
func grantLimit(s *control.Status) (limit int) {
	for _, v := range s.Vifs {
		if v.Device != nil {
			limit = max(limit, v.Device.GrantLimit)
		}
	}
	return limit
}

// emitter sends the values of one scrape.
type emitter struct {
	ch chan<- prometheus.Metric
	*families
}

func (e emitter) value(f family, v float64, labels ...string) {
	m, err := prometheus.NewConstMetric(f.desc, f.kind, v, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(f.desc, err)
	}
	e.ch <- m
}

// count is value for whole numbers.
func (e emitter) count(f family, n uint64, labels ...string) { e.value(f, float64(n), labels...) }

// seconds is a time in seconds since 1970.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// maxLabel is the longest label value in bytes.
const maxLabel = 256

// label makes a label's value of text that may come from xenstore or the user. The format
// takes UTF-8 only, and sets no limit to the length.
func label(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxLabel)], "?")
}
