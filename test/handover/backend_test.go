package handover

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// sessionPace is between two chunks of a session, which says something all the time and
// not much.
const sessionPace = 2 * time.Millisecond

// sessions are open TCP connections, one each way.
func (w *world) sessions() (out, in *transfer) {
	w.t.Helper()
	return startTransfer(w.t, "session from the guest", w.front, w.back, w.backIP, sessionPace),
		startTransfer(w.t, "session to the guest", w.back, w.front, w.guestIP, sessionPace)
}

// driverDomainMoves takes the driver domain away for a while. The toolstack then attaches
// the vif to another one.
func driverDomainMoves(t *testing.T, p programs) {
	absence := 3 * time.Second
	if testing.Short() {
		absence = time.Second
	}
	const first, second = xen.DomID(2), xen.DomID(3)
	w := newWorldOf(t, p, 2, first)
	w.arp = true
	d := w.connected(p.plain)
	index := w.sound().IfIndex
	fromGuest, toGuest := w.sessions()
	out, in := w.streams()
	out.lossy, in.lossy = true, true
	out.start(0)
	in.start(0)
	fromGuest.awaitMore(10_000)
	toGuest.awaitMore(10_000)

	began := time.Now()
	w.netback.kill()
	must(t, xensim.RemoveDomain(t.Context(), w.server.Toolstack(), first))
	time.Sleep(absence - time.Since(began)) // the absence is what is tested
	must(t, xensim.DetachVif(w.deadline(), w.server.Toolstack(), w.dom, 0, time.Second))
	w.vif.Backend = second
	w.netback = w.startBackend(second)
	must(t, xensim.AttachVif(w.deadline(), w.server.Toolstack(), w.vif))
	was := time.Since(began)
	must(t, w.backVif().WaitConnected(w.deadline()))
	// Not the longest gap: what waited in the TAPs meanwhile comes before the kernel has
	// found its neighbour again.
	for _, s := range []*stream{out, in} {
		s.settle()
		within(t, "driver domain away, outage "+s.name+" beyond its absence", time.Since(began)-was, 2*time.Second)
	}
	report(t, "absence", milliseconds(was), "chosen")
	for _, s := range []*transfer{fromGuest, toGuest} {
		s.awaitMore(10_000)
		report(t, s.name+" survives, longest silence", milliseconds(s.longest()), "absence, and TCP's own back-off")
		s.finish()
	}
	for _, s := range []*stream{out, in} {
		s.halt()
		s.finish()
		s.whole()
	}
	if s := w.sound(); s.IfIndex != index || s.BackendDomID != uint16(second) {
		t.Errorf("TAP %d of backend %d, want %d of %d", s.IfIndex, s.BackendDomID, index, second)
	}
	w.stop(d)
}

// netbackIsBoundAnew unbinds netback's device and binds it again, under a daemon and
// between two.
func netbackIsBoundAnew(t *testing.T, p programs) {
	w := newWorld(t, p, 2)
	d := w.connected(p.plain)
	grants, ports := w.grantRefs(), w.ports()
	out := startTransfer(t, "TCP from the guest", w.front, w.back, w.backIP, 0)
	in := startTransfer(t, "TCP to the guest", w.back, w.front, w.guestIP, 0)
	for _, running := range []bool{true, true, false} {
		out.awaitMore(8 << 20)
		in.awaitMore(8 << 20)
		out.longest()
		in.longest()
		what := "netback is bound anew"
		v := w.backVif()
		if running {
			must(t, v.Rebind(w.deadline()))
		} else {
			what += " while no daemon runs"
			d.end(unix.SIGUSR2)
			must(t, v.Rebind(w.deadline()))
			d = w.next(p.plain)
		}
		must(t, v.WaitConnected(w.deadline()))
		out.awaitMore(8 << 20)
		in.awaitMore(8 << 20)
		report(t, what+", longest gap of "+out.name, milliseconds(out.longest()), "no goal; TCP's retransmission")
		report(t, what+", longest gap of "+in.name, milliseconds(in.longest()), "no goal; TCP's retransmission")
	}
	out.finish()
	in.finish()
	if !slices.Equal(w.grantRefs(), grants) || !slices.Equal(w.ports(), ports) {
		t.Error("new rings: those that were there would have done")
	}
	w.sound()
	w.stop(d)
}

// guestIsRestored saves and restores the guest three times in a row, with a daemon's
// restart in between.
func guestIsRestored(t *testing.T, p programs) {
	w := newWorld(t, p, 2)
	w.arp = true
	d := w.connected(p.plain)
	index := w.sound().IfIndex
	fromGuest, toGuest := w.sessions()
	for round := range 3 {
		fromGuest.awaitMore(10_000)
		toGuest.awaitMore(10_000)
		fromGuest.longest()
		toGuest.longest()
		as := guest + 10 + xen.DomID(round)
		must(t, w.server.Restore(w.deadline(), w.dom, as, w.vif))
		w.dom, w.vif.Frontend = as, as
		must(t, w.backVif().WaitConnected(w.deadline()))
		fromGuest.awaitMore(10_000)
		toGuest.awaitMore(10_000)
		within(t, "restored, longest silence of "+fromGuest.name, fromGuest.longest(), 2*time.Second)
		within(t, "restored, longest silence of "+toGuest.name, toGuest.longest(), 2*time.Second)
		w.lostPortsAreKept()
		if round == 1 {
			d = w.restart(d, p.plain)
			w.lostPortsAreKept()
		}
	}
	if w.sound().IfIndex != index {
		t.Error("another TAP")
	}
	fromGuest.finish()
	toGuest.finish()
	d.end(unix.SIGTERM)
	w.wantNothingLeft(3)
	w.lostPortsAreKept() // neither by the stop nor by the exit
}
