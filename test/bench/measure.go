package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// settle is a pause after each sample, in which the queues empty.
const settle = 20 * time.Millisecond

// warmUp is the part of a UDP sample's time for which it sends before the receiver is
// looked at; it sends half as long again after it.
const warmUp = 0.1

// bed is everything that samples are taken on.
type bed struct {
	spaces
	guestAgent, networkAgent    *agent
	veth, forwarder, xnetfrontd *link
	seconds                     time.Duration  // of a sample
	rated                       map[int]*rated // for loads, by rate in Mb/s
	loadFor                     time.Duration  // length of a sample under load
}

// openBed makes the namespaces, the agents and the links that o needs. Files go into
// dir.
func openBed(ctx context.Context, dir string, o options) (b *bed, err error) {
	b = &bed{seconds: seconds(o.seconds), loadFor: seconds(o.loadSeconds)}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	program, err := build(ctx, dir)
	if err != nil {
		return b, err
	}
	if b.guest, err = newSpace(); err != nil {
		return b, err
	}
	if b.network, err = newSpace(); err != nil {
		return b, err
	}
	if b.guestAgent, err = startAgent(b.guest); err != nil {
		return b, err
	}
	if b.networkAgent, err = startAgent(b.network); err != nil {
		return b, err
	}
	if len(o.metrics) > 0 {
		if err := b.openLinks(ctx, dir, program); err != nil {
			return b, err
		}
	}
	return b, b.openLoads(ctx, dir, program, o.loads)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// openLinks makes the links that metrics are measured on, all as they come: no option
// but names and paths.
func (b *bed) openLinks(ctx context.Context, dir, program string) (err error) {
	if b.veth, err = b.openVeth(); err != nil {
		return err
	}
	if b.forwarder, err = b.openForwarder(ctx, dir); err != nil {
		return err
	}
	b.xnetfrontd, err = b.openXnetfrontd(ctx, dir, program, xenOptions{tap: daemonTAP, backendTAP: backendTAP}, [3]byte{203, 0, 113})
	if err != nil {
		return err
	}
	return b.tryOut(b.veth, b.forwarder, b.xnetfrontd)
}

// interrupt makes a sample that is under way fail.
func (b *bed) interrupt() {
	b.guestAgent.kill()
	b.networkAgent.kill()
}

// close ends everything that openBed made.
func (b *bed) close() error {
	var errs []error
	for _, l := range []*link{b.xnetfrontd, b.forwarder, b.veth} {
		if l != nil {
			errs = append(errs, l.stop())
		}
	}
	for _, r := range b.rated {
		errs = append(errs, r.stop())
	}
	for _, a := range []*agent{b.guestAgent, b.networkAgent} {
		if a != nil {
			a.stop()
		}
	}
	for _, s := range []*space{b.guest, b.network} {
		if s != nil {
			s.close()
		}
	}
	return errors.Join(errs...)
}

// tryOut sends a datagram and back over each link, which also fills the tables of
// neighbours.
func (b *bed) tryOut(links ...*link) error {
	for _, l := range links {
		if _, err := b.guestAgent.ask(order{Op: "rtt", Peer: l.network.String()}); err != nil {
			return fmt.Errorf("try out %s: %w", l.name, errors.Join(err, l.alive()))
		}
	}
	return nil
}

// round takes one pair for m: veth, the other links, and veth again. The other links
// change places from round to round, for the sake of machines that grow slower or
// faster with time.
func (b *bed) round(ctx context.Context, n int, m metric) ([]sample, error) {
	links := []*link{b.veth, b.forwarder, b.xnetfrontd, b.veth}
	if n%2 == 1 {
		links[1], links[2] = links[2], links[1]
	}
	samples := make([]sample, 0, len(links))
	for _, l := range links {
		s, err := b.sample(ctx, m, l)
		if err != nil {
			return nil, fmt.Errorf("%s on %s: %w", m.Title, l.name, errors.Join(err, l.alive()))
		}
		samples = append(samples, s)
		time.Sleep(settle)
	}
	return samples, ctx.Err()
}

// sample measures m on l.
func (b *bed) sample(ctx context.Context, m metric, l *link) (sample, error) {
	s := sample{Link: l.name}
	before, err := b.usage(ctx, l)
	if err != nil {
		return s, err
	}
	from, to, peer := b.networkAgent, b.guestAgent, l.guest
	if m.FromGuest {
		from, to, peer = b.guestAgent, b.networkAgent, l.network
	}
	o := order{Op: m.Op, Peer: peer.String(), For: b.seconds}
	var a answer
	if m.Op == "udp" {
		a.Value, err = flood(from, to, o)
	} else {
		a, err = from.ask(o)
	}
	if err != nil {
		return s, err
	}
	s.Value, s.P99 = a.Value, a.P99
	after, err := b.usage(ctx, l)
	if err != nil {
		return s, err
	}
	s.grown(before, after)
	return s, nil
}

// flood lets one agent send datagrams and returns how many the other receives, in
// thousands each second, while it does: neither the beginning nor the end counts.
func flood(from, to *agent, o order) (rate float64, err error) {
	window := o.For
	lead := time.Duration(warmUp * float64(window))
	o.For += lead + lead/2
	sent := make(chan error, 1)
	go func() {
		_, err := from.ask(o)
		sent <- err
	}()
	time.Sleep(lead)
	first, err1 := to.ask(order{Op: "udp-received"})
	time.Sleep(window)
	last, err2 := to.ask(order{Op: "udp-received"})
	if err := errors.Join(<-sent, err1, err2); err != nil {
		return 0, err
	}
	return (last.Value - first.Value) / (last.At - first.At).Seconds() / 1e3, nil
}

// grown notes by how much what a link used has grown.
func (s *sample) grown(before, after usage) {
	s.Packets = after.packets - before.packets
	for name, d := range after.cpu {
		if s.CPU == nil {
			s.CPU = make(map[string]int64)
		}
		s.CPU[name] = (d - before.cpu[name]).Milliseconds()
	}
	for name, n := range after.counters {
		if d := n - before.counters[name]; d != 0 {
			if s.Counters == nil {
				s.Counters = make(map[string]uint64)
			}
			s.Counters[name] = d
		}
	}
}
