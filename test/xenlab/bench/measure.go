package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Options are what Run measures.
type Options struct {
	Metrics []Metric
	Pairs   int // of samples for each metric
	Seconds int // of one sample
	// Omit is how many seconds of traffic come before each sample, in which TCP finds its
	// pace and the emulator translates what it has not met before.
	Omit     int
	Progress io.Writer // gets a line for each pair
}

// Quick returns options that show that it works, for figures that mean little.
func Quick(metrics []Metric) Options {
	return Options{Metrics: metrics, Pairs: 1, Seconds: 1, Progress: io.Discard}
}

// sampleTime is how long the giving of the vif and a sample may take, besides the
// sample's own seconds. It only ends what hangs.
const sampleTime = 3 * time.Minute

// Run measures on vif 0 of a guest, which must have Linux's xen-netfront as a module
// and no daemon. It leaves the vif without a frontend, unless it fails.
func Run(ctx context.Context, l *lab.Lab, domU *lab.DomU, o Options) (*Result, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the server
	defer cancel()
	r := &Result{When: time.Now(), Machine: figures.DescribeMachine(ctx), Pairs: o.Pairs, Seconds: o.Seconds}
	if err := r.describe(ctx, l, domU); err != nil {
		return nil, err
	}
	for _, m := range o.Metrics {
		r.Metrics = append(r.Metrics, Measured{Metric: m})
	}
	b, err := open(ctx, l, domU)
	if err != nil {
		return nil, err
	}
	for n := range o.Pairs {
		for i := range r.Metrics {
			m := &r.Metrics[i]
			pair, err := b.pair(ctx, &m.Metric, (n+i)%2 == 1, o)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.Title, err)
			}
			m.Samples = append(m.Samples, pair)
			fmt.Fprintf(o.Progress, "pair %d of %d: %s: %s\n", n+1, o.Pairs, m.Title, m.line(pair))
		}
	}
	for i := range r.Metrics {
		m := &r.Metrics[i]
		m.Ratio = figures.SpreadOf(m.ratios(valueOf))
	}
	return r, errors.Join(b.leave(ctx), b.complaints(ctx))
}

// pair takes a sample with each frontend, the kernel's first unless swapped.
func (b *bed) pair(ctx context.Context, m *Metric, swapped bool, o Options) ([]Sample, error) {
	order := []string{Kernel, Ours}
	if swapped {
		order = []string{Ours, Kernel}
	}
	var pair []Sample
	for _, frontend := range order {
		s, err := b.sample(ctx, m, frontend, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", frontend, err)
		}
		pair = append(pair, s)
	}
	return pair, nil
}

func (b *bed) sample(ctx context.Context, m *Metric, frontend string, o Options) (Sample, error) {
	limit := sampleTime + 2*longest*time.Duration(o.Seconds+o.Omit)*time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done in %s", limit))
	defer cancel()
	s := Sample{Frontend: frontend}
	if err := b.give(ctx, frontend); err != nil {
		return s, err
	}
	if err := b.setOffloads(ctx, !m.Plain); err != nil {
		return s, err
	}
	before, err := b.netback(ctx)
	if err != nil {
		return s, err
	}
	if m.tool == toolPing {
		s.Value, s.Mean, err = b.ping(ctx, o.Seconds)
	} else {
		s.Value, err = b.iperf(ctx, m, o.Seconds, o.Omit)
	}
	if err != nil {
		return s, err
	}
	after, err := b.netback(ctx)
	s.Events, s.Spurious = after.events-before.events, after.spurious-before.spurious
	return s, err
}

// netback is what Xen's bus counts of the backend in dom0 (struct xenbus_device): the
// notifications it got, and those that found nothing to do.
type netback struct{ events, spurious uint64 }

func (b *bed) netback(ctx context.Context) (n netback, err error) {
	dir := fmt.Sprintf("/sys/bus/xen-backend/devices/vif-%d-%d/xenbus/", b.domU.ID(), devid)
	for name, to := range map[string]*uint64{"events": &n.events, "spurious_events": &n.spurious} {
		text, err := b.lab.Dom0().ReadFile(ctx, dir+name)
		if err != nil {
			return n, err
		}
		if *to, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			return n, fmt.Errorf("netback's %s: %w", name, err)
		}
	}
	return n, nil
}

// complaints is an error if netback has disabled the vif meanwhile.
func (b *bed) complaints(ctx context.Context) error {
	log, err := b.lab.Dom0().Run(ctx, "dmesg")
	if err != nil {
		return err
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, b.domU.Vif(devid)) && strings.Contains(line, "fatal error") {
			return fmt.Errorf("netback: %s", strings.TrimSpace(line))
		}
	}
	return nil
}
