package main

import (
	"errors"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// testBed is a bed without xnetfrontd, which its own tests cover: built, it would take
// longer than all of these.
func testBed(t *testing.T) *bed {
	needs.Root(t)
	b := &bed{seconds: 50 * time.Millisecond}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	var errs [6]error
	b.guest, errs[0] = newSpace()
	b.network, errs[1] = newSpace()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	b.guestAgent, errs[2] = startAgent(b.guest)
	b.networkAgent, errs[3] = startAgent(b.network)
	b.veth, errs[4] = b.openVeth()
	b.forwarder, errs[5] = b.openForwarder(t.Context(), t.TempDir())
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEveryMetricIsMeasuredOnVethAndForwarder(t *testing.T) {
	b := testBed(t)
	for _, l := range []*link{b.veth, b.forwarder} {
		for _, m := range metrics() {
			s, err := b.sample(t.Context(), m, l)
			if err != nil {
				t.Fatalf("%s on %s: %v", m.ID, l.name, err)
			}
			if s.Value <= 0 || s.Packets == 0 {
				t.Errorf("%s on %s: %+v", m.ID, l.name, s)
			}
			if (m.Op == "rtt") != (s.P99 > 0) {
				t.Errorf("%s on %s: 99th percentile %v", m.ID, l.name, s.P99)
			}
		}
	}
	if _, ok := b.forwarder.processes[0].cpu(); ok != nil {
		t.Error(ok)
	}
}

func TestInterruptEndsASampleAtOnce(t *testing.T) {
	b := testBed(t)
	b.seconds = time.Minute
	failed := make(chan error, 1)
	go func() {
		_, err := b.sample(t.Context(), metrics()[0], b.veth)
		failed <- err
	}()
	b.interrupt()
	if err := <-failed; err == nil {
		t.Error("a sample without agents succeeds")
	}
}

func TestLinkWhoseProcessDiedIsReported(t *testing.T) {
	b := testBed(t)
	p := b.forwarder.processes[0]
	if err := b.forwarder.alive(); err != nil {
		t.Fatal(err)
	}
	p.cmd.Process.Kill()
	<-p.exited
	if err := b.forwarder.alive(); err == nil {
		t.Error("nobody noticed")
	}
}
