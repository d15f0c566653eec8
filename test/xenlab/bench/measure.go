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
	Latency Latency
	Pairs   int // of samples for each metric
	Seconds int // of one sample
	// Omit is how many seconds of traffic come before each sample, in which TCP finds its
	// pace and the emulator translates what it has not met before.
	Omit int
	Ours Build
	// Baseline is measured beside the others unless it is nil.
	Baseline *Build
	Progress io.Writer // gets a line for each pair
}

// Quick returns options that show that it works, for figures that mean little.
func Quick(metrics []Metric) Options {
	return Options{Metrics: metrics, Pairs: 1, Seconds: 1, Progress: io.Discard}
}

// frontends are those that are compared, the kernel's first.
func (o *Options) frontends() []string {
	if o.Baseline == nil {
		return []string{Kernel, Ours}
	}
	return []string{Kernel, Ours, Baseline}
}

// builds are those frontends that are ours.
func (o *Options) builds() map[string]Build {
	builds := map[string]Build{Ours: o.Ours}
	if o.Baseline != nil {
		builds[Baseline] = *o.Baseline
	}
	return builds
}

// sampleTime is how long the giving of the vif and a sample may take, besides the
// sample's own seconds. It only ends what hangs.
const sampleTime = 3 * time.Minute

// Run measures in a guest, which must have Linux's xen-netfront as a module, vif 0 and
// those that o.Latency names, and no daemon. It leaves the vifs without a frontend,
// unless it fails.
func Run(ctx context.Context, l *lab.Lab, domU *lab.DomU, o Options) (*Result, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the servers
	defer cancel()
	r := &Result{When: time.Now(), Machine: figures.DescribeMachine(ctx), Pairs: o.Pairs, Seconds: o.Seconds, Frontends: o.frontends()}
	if err := r.describe(ctx, l, domU); err != nil {
		return nil, err
	}
	if err := errors.Join(domU.InstallDaemon(ctx), serve(ctx, l)); err != nil {
		return nil, err
	}
	if err := r.takeMetrics(ctx, &bed{lab: l, domU: domU, builds: o.builds()}, o); err != nil {
		return nil, err
	}
	if err := r.takeLatency(ctx, l, domU, o); err != nil {
		return nil, err
	}
	return r, errors.Join(unload(ctx, domU), complaints(ctx, l, domU))
}

// takeMetrics takes the samples of metrics on a vif.
func (r *Result) takeMetrics(ctx context.Context, b *bed, o Options) error {
	for _, m := range o.Metrics {
		r.Metrics = append(r.Metrics, Measured{Metric: m})
	}
	for n := range o.Pairs {
		for i := range r.Metrics {
			m := &r.Metrics[i]
			pair, err := b.pair(ctx, &m.Metric, order(r.Frontends, (n+i)%2 == 1), o)
			if err != nil {
				return fmt.Errorf("%s: %w", m.Title, err)
			}
			m.Samples = append(m.Samples, pair)
			fmt.Fprintf(o.Progress, "pair %d of %d: %s: %s\n", n+1, o.Pairs, m.Title, m.line(pair))
		}
	}
	for i := range r.Metrics {
		r.Metrics[i].sum()
	}
	return b.leave(ctx)
}

// pair takes a sample with each frontend.
func (b *bed) pair(ctx context.Context, m *Metric, frontends []string, o Options) ([]Sample, error) {
	var pair []Sample
	for _, frontend := range frontends {
		s, err := b.sample(ctx, m, frontend, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", frontend, err)
		}
		pair = append(pair, s)
	}
	return pair, nil
}

func (b *bed) sample(ctx context.Context, m *Metric, frontend string, o Options) (Sample, error) {
	limit := sampleTime + 2*longest*duration(o.Seconds+o.Omit)
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

func duration(seconds int) time.Duration { return time.Duration(seconds) * time.Second }

// netback is what Xen's bus counts of the backend in dom0 (struct xenbus_device): the
// notifications it got, and those that found nothing to do.
type netback struct{ events, spurious uint64 }

func (b *bed) netback(ctx context.Context) (n netback, err error) {
	dir := fmt.Sprintf("/sys/bus/xen-backend/devices/vif-%d-%d/xenbus/", b.domU.ID(), b.devid)
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

// complaints is an error if netback has disabled one of the guest's vifs meanwhile.
func complaints(ctx context.Context, l *lab.Lab, domU *lab.DomU) error {
	log, err := l.Dom0().Run(ctx, "dmesg")
	if err != nil {
		return err
	}
	vif := strings.TrimSuffix(domU.Vif(0), "0")
	for line := range strings.Lines(log) {
		if strings.Contains(line, vif) && strings.Contains(line, "fatal error") {
			return fmt.Errorf("netback: %s", strings.TrimSpace(line))
		}
	}
	return nil
}
