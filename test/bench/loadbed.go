package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// loadSettle is a pause after a sample under load, in which answers to uploads that
// were broken off go back and forth.
const loadSettle = 200 * time.Millisecond

// rated are the two links that are compared at one rate.
type rated struct {
	veth, xnetfrontd *link
	bucket           *bucket // of veth; nil without a rate
}

// openLoads makes the links for each rate in cases.
func (b *bed) openLoads(ctx context.Context, dir, program string, cases []loadCase) error {
	b.rated = make(map[int]*rated)
	for _, c := range cases {
		if b.rated[c.Mbit] != nil {
			continue
		}
		r := &rated{}
		b.rated[c.Mbit] = r
		if err := b.openRated(ctx, r, filepath.Join(dir, fmt.Sprint(c.Mbit)), program, c.Mbit); err != nil {
			return fmt.Errorf("links with a rate of %d Mb/s: %w", c.Mbit, err)
		}
	}
	return nil
}

// likeAnUplink makes the guest's TCP one that sends to the far end of an uplink.
func (b *bed) likeAnUplink() error {
	for name, value := range map[string]string{
		// What it learns of a path in one sample is not what the next begins with.
		"tcp_no_metrics_save": "1",
		// To a peer that answers within 512 µs, as that in the other namespace does, it
		// sends super-frames of 64 KB at any rate, and to one behind an uplink such of a
		// millisecond's length. Kernels before 5.18 do not ask who the peer is.
		"tcp_tso_rtt_log": "0",
	} {
		err := b.guest.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set TCP up: %w", err)
		}
	}
	return nil
}

// openRated makes the links for a rate. Their networks are out of those that RFC 2544
// gives to benchmarks.
func (b *bed) openRated(ctx context.Context, r *rated, dir, program string, mbit int) (err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	r.veth = newLink(linkVeth, fmt.Sprintf("veth%dm", mbit), [3]byte{198, 18, byte(mbit)})
	if err := b.makeVeth(r.veth); err != nil {
		return err
	}
	if mbit != 0 {
		if r.bucket, err = newBucket(b.guest, r.veth.device, mbit); err != nil {
			return err
		}
	}
	options := xenOptions{tap: fmt.Sprintf("xnf%dm", mbit), backendTAP: fmt.Sprintf("vif%dm", mbit), queues: 1}
	if mbit != 0 {
		options.rate = fmt.Sprintf("%d,%d", creditBytes(mbit), libxlInterval.Microseconds())
	}
	r.xnetfrontd, err = b.openXnetfrontd(ctx, dir, program, options, [3]byte{198, 19, byte(mbit)})
	if err != nil {
		return err
	}
	return b.tryOut(r.veth, r.xnetfrontd)
}

// stop ends what the links need.
func (r *rated) stop() error {
	var errs []error
	if r.bucket != nil {
		errs = append(errs, r.bucket.close())
	}
	if r.xnetfrontd != nil {
		errs = append(errs, r.xnetfrontd.stop())
	}
	return errors.Join(errs...)
}

// alive is nil while both links work.
func (r *rated) alive() error {
	if r.bucket != nil {
		if err := r.bucket.alive(); err != nil {
			return err
		}
	}
	return r.xnetfrontd.alive()
}

// loadPair takes one pair of samples: of veth and of xnetfrontd, in turn which first.
func (b *bed) loadPair(ctx context.Context, n int, c loadCase) (p loadPair, err error) {
	r := b.rated[c.Mbit]
	take := func(l *link) (f map[string]float64) {
		if err == nil {
			f, err = b.loadSample(c, l)
			time.Sleep(loadSettle)
		}
		if err != nil {
			err = fmt.Errorf("%s on %s: %w", c.title(), l.name, errors.Join(err, r.alive()))
		}
		return f
	}
	if n%2 == 0 {
		p.Veth = take(r.veth)
	}
	p.Xnetfrontd = take(r.xnetfrontd)
	if n%2 == 1 {
		p.Veth = take(r.veth)
	}
	return p, errors.Join(err, ctx.Err())
}

// loadSample measures c on l.
func (b *bed) loadSample(c loadCase, l *link) (map[string]float64, error) {
	o := order{Op: "load", Peer: l.network.String(), For: b.loadFor, Flows: c.Flows}
	if c.Flows != 0 {
		a, err := b.guestAgent.ask(o)
		return a.Figures, err
	}
	o.For /= 2 // nothing of it has to settle
	before, err := b.networkAgent.ask(order{Op: "flooded"})
	if err != nil {
		return nil, err
	}
	sent, err := b.guestAgent.ask(o)
	if err != nil {
		return nil, err
	}
	arrived, err := b.flooded()
	if err != nil {
		return nil, err
	}
	return map[string]float64{figureDelivered: 100 * (arrived - before.Value) / sent.Value}, nil
}

// flooded is how many datagrams have arrived when no more come: the queues are empty
// when it is called, but for the receiver's own.
func (b *bed) flooded() (float64, error) {
	for last := -1.0; ; {
		a, err := b.networkAgent.ask(order{Op: "flooded"})
		if err != nil || a.Value == last {
			return a.Value, err
		}
		last = a.Value
		time.Sleep(settle)
	}
}
