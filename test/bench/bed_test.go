package main

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

func skipWithoutTBF(t *testing.T, err error) {
	if errors.Is(err, unix.ENOENT) {
		needs.LeaveOut(t, "a kernel with tbf")
	}
}

func TestEveryLoadIsMeasuredOnAVethPairBehindABucket(t *testing.T) {
	const mbit = 100
	b := testBed(t)
	b.loadFor = 300 * time.Millisecond
	r := &rated{veth: newLink(linkVeth, "veth100m", [3]byte{198, 18, mbit})}
	b.rated = map[int]*rated{mbit: r}
	var errs [2]error
	errs[0] = b.makeVeth(r.veth)
	r.bucket, errs[1] = newBucket(b.guest, r.veth.device, mbit)
	skipWithoutTBF(t, errs[1])
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	for _, flows := range []int{1, 8, 0} {
		c := loadCase{Mbit: mbit, Flows: flows}
		got, err := b.loadSample(c, r.veth)
		if err != nil {
			t.Fatalf("%s: %v", c.title(), err)
		}
		for _, f := range c.figures() {
			v, ok := got[f.ID]
			if !ok || v < 0 || v == 0 && !f.Plain {
				t.Errorf("%s, %s: %v %v", c.title(), f.Title, v, ok)
			}
		}
		if v := got[figureThroughput]; v > 10*mbit {
			t.Errorf("%s: %v Mbit/s", c.title(), v)
		}
	}
	if err := r.bucket.alive(); err != nil {
		t.Error(err)
	}
}

func TestBucketLetsAnIntervalsCreditThroughAndAFullAllowanceAtMost(t *testing.T) {
	const mbit = 10
	b := testBed(t)
	k := &bucket{nl: b.guest.Links, bytes: creditBytes(mbit)}
	var err error
	if k.link, err = b.guest.Links.LinkByName(b.veth.device); err != nil {
		t.Fatal(err)
	}
	if err := k.open(b.guest); err != nil {
		skipWithoutTBF(t, err)
		t.Fatal(err)
	}
	defer unix.Close(k.waker)
	const length = 1000
	sent := func() uint64 {
		t.Helper()
		n, err := k.bytesSent()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	send := func(frames int) {
		t.Helper()
		frame := [length]byte{12: wakeType >> 8, 13: wakeType & 0xff}
		for range frames {
			if err := unix.Sendto(k.waker, frame[:], 0, &unix.SockaddrLinklayer{Ifindex: k.link.Attrs().Index}); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(100)
	// A frame more is what drips in meanwhile, and a wake frame what the bucket sends.
	first := sent()
	if first > uint64(k.bytes)+length || first+length < uint64(k.bytes) {
		t.Errorf("%d bytes went at first, credit is %d", first, k.bytes)
	}
	if err := k.fill(); err != nil {
		t.Fatal(err)
	}
	if all := sent(); all < 100*length || all > 100*length+60 {
		t.Errorf("%d bytes went with two credits", all)
	}
	for range 10 {
		if err := k.fill(); err != nil {
			t.Fatal(err)
		}
	}
	before := sent()
	send(200)
	if n := sent() - before; n > creditBurst+length || n+length < creditBurst {
		t.Errorf("%d bytes went after a pause", n)
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
