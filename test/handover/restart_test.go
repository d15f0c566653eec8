package handover

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// gapGoal is the longest that nothing may come while a daemon takes over from another.
	gapGoal = 50 * time.Millisecond
	// packets of a stream over a few restarts: two seconds.
	streamPackets = 10_000
)

// streams makes one stream each way.
func (w *world) streams() (out, in *stream) {
	w.t.Helper()
	return newStream(w.t, "from the guest", w.front, w.back, w.backIP, 7001),
		newStream(w.t, "to the guest", w.back, w.front, w.guestIP, 7002)
}

// restarts are the programs that go on, one after another: the same, a newer one, and
// the old one again.
func (p programs) restarts() []string { return []string{p.plain, p.upgraded, p.plain} }

// adoptable asks a program whether it can go on, as a package's upgrade does.
func (w *world) adoptable(program string) {
	w.t.Helper()
	out, err := exec.Command(program, "adopt-check", "--socket", w.holdSocket()).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "can be taken over") {
		w.t.Errorf("adopt-check: %v: %s", err, out)
	}
}

// restart ends p as a restart does, and starts the next one.
func (w *world) restart(p *process, next string) *process {
	w.t.Helper()
	p.end(unix.SIGUSR2)
	return w.next(next)
}

func restartUnderPackets(t *testing.T, p programs) {
	w := newWorld(t, p, 2)
	d := w.connected(p.plain)
	index := w.sound().IfIndex
	out, in := w.streams()
	same := w.watch()
	dropped := w.drops()
	gaps := bestOf{t: t, goal: gapGoal}
	out.start(streamPackets)
	in.start(streamPackets)
	restarts := p.restarts()
	for i, program := range restarts {
		out.awaitSent(uint64((i + 1) * streamPackets / (len(restarts) + 1)))
		w.adoptable(program)
		d = w.restart(d, program)
		out.settle()
		in.settle()
		kind := "restart"
		if program == p.upgraded {
			kind = "upgrade"
			if version, _ := w.status(); version != "2.0" {
				t.Errorf("version %q runs after the upgrade to 2.0", version)
			}
		}
		gaps.add(kind+", longest gap from the guest", out.longest())
		gaps.add(kind+", longest gap to the guest", in.longest())
		same.check()
	}
	gaps.check()
	for _, s := range []*stream{out, in} {
		sent, lost := s.finish()
		report(t, "packets lost "+s.name, share(lost, sent), "goal 0; sender late by "+milliseconds(time.Duration(s.late.Load())))
		if lost != 0 {
			t.Errorf("%d of %d packets lost %s", lost, sent, s.name)
		}
		s.whole()
	}
	if now := w.drops(); !slices.Equal(now, dropped) {
		t.Errorf("dropped: %v, before %v", now, dropped)
	}
	if w.sound().IfIndex != index {
		t.Error("another TAP")
	}
	w.stop(d)
}

func restartUnderTransfer(t *testing.T, p programs) {
	w := newWorld(t, p, 2)
	d := w.connected(p.plain)
	same := w.watch()
	before, dropped := w.settleFrames(), w.drops()
	out := startTransfer(t, "TCP from the guest", w.front, w.back, w.backIP, 0)
	in := startTransfer(t, "TCP to the guest", w.back, w.front, w.guestIP, 0)
	disorder := w.disorder()
	gaps := bestOf{t: t, goal: gapGoal}
	for _, program := range p.restarts() {
		out.awaitMore(32 << 20)
		in.awaitMore(32 << 20)
		out.longest()
		in.longest()
		d = w.restart(d, program)
		out.awaitMore(8 << 20)
		in.awaitMore(8 << 20)
		gaps.add("restart, longest gap of "+out.name, out.longest())
		gaps.add("restart, longest gap of "+in.name, in.longest())
		same.check()
	}
	gaps.check()
	out.finish()
	in.finish()
	carried := w.settleFrames().since(before)
	lostOut, lostIn := carried.lost()
	report(t, "frames lost from the guest", share(lostOut, carried.fromTAP), "goal 0")
	report(t, "frames lost to the guest", share(lostIn, carried.fromBackend), "goal 0")
	if lostOut != 0 || lostIn != 0 {
		t.Errorf("frames: %+v", carried)
	}
	if now := w.drops(); !slices.Equal(now, dropped) {
		t.Errorf("dropped: %v, before %v", now, dropped)
	}
	if n := w.disorder() - disorder; n != 0 {
		t.Errorf("%d segments came before those that precede them", n)
	}
	report(t, "bytes from and to the guest, hashes equal", fmt.Sprintf("%d + %d MiB", out.bytes.Load()>>20, in.bytes.Load()>>20), "three restarts")
	w.stop(d)
}

// disorder counts TCP segments that came too early, at both ends.
func (w *world) disorder() int {
	w.t.Helper()
	return w.front.tcpFigure(w.t, "TCPOFOQueue") + w.back.tcpFigure(w.t, "TCPOFOQueue")
}
