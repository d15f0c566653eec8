package scenario

import (
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
)

const mib = 1 << 20

func bulk() Scenario {
	return Scenario{
		Name: "bulk",
		Proves: "64 MiB each way with the same SHA-256 at both ends, in super-frames that dom0's vif sees, " +
			"and checksums that a third host behind dom0's bridge finds right, both those that dom0 leaves blank and those that it finishes",
		Takes: 27 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			s := serve(t, u, 0, numberGuest)
			guest, dom0 := in(u.Guest), in(t.Dom0)

			stop := watch(t, dom0, u.Vif(0))
			to := transfer(t, guest, dom0, ipv4(numberDom0), 64*mib, 1)
			from := transfer(t, dom0, guest, ipv4(numberGuest), 64*mib, 1)
			transfer(t, guest, dom0, ipv6(numberDom0), 2*mib, 1)
			transfer(t, dom0, guest, ipv6(numberGuest), 2*mib, 1)
			f := stop()
			t.Reportf("domU to dom0 %.0f Mbit/s, dom0 to domU %.0f Mbit/s, frames up to %d and %d bytes",
				to.MbitPerS, from.MbitPerS, f.In.Largest, f.Out.Largest)
			superFrames(t, "from the guest", f.In)
			superFrames(t, "to the guest", f.Out)

			third := thirdHost(t)
			forwarded(t, s, third)
			shell(t, t.Dom0, `ethtool -K third tx off
			ip netns exec third ethtool -K eth0 tx off`)
			finished(t, s, third)
			noFatal(t)
			s.stop()
		},
	}
}

// superFrames wants frames over the MTU one way.
func superFrames(t *T, what string, d traffic.Direction) {
	if d.Large == 0 {
		t.Errorf("%s: none of %d frames is over 1514 bytes: segmentation is not offloaded", what, d.Frames)
	}
}

// forwarded sends through the bridge with all offloads: what dom0 hands over has a
// pseudo-header's sum in place, and says so.
func forwarded(t *T, s *served, third place) {
	guest := in(s.u.Guest)
	stop := watch(t, third, "eth0", "--verify")
	bothWays(t, guest, third)
	f := stop()
	noneBad(t, "offloaded, from the guest", f.In)
	noneBad(t, "offloaded, to the guest", f.Out)
	superFrames(t, "forwarded from the guest", f.In)
	if len(f.In.Unfinished) == 0 {
		t.Errorf("forwarded from the guest: no checksum was left to the receiver: %+v", f.In)
	}
}

// finished sends through the bridge to a wire that has no offloads: dom0 computes every
// checksum of what the guest sends, and what the guest receives has one.
func finished(t *T, s *served, third place) {
	guest := in(s.u.Guest)
	stop := watch(t, third, "eth0", "--verify")
	tap := watch(t, guest, s.tap, "--verify")
	bothWays(t, guest, third)
	seen := stream(t, guest, third, ipv4(numberThird), 500, 1000)
	noneWrong(t, "UDP to the third host", seen)
	f, g := stop(), tap()
	if f.In.Large != 0 || len(f.In.Unfinished) != 0 {
		t.Errorf("the third host's wire has offloads, so nothing is proved: %+v", f.In)
	}
	noneBad(t, "finished by dom0, from the guest", f.In)
	noneBad(t, "without offloads, to the guest", f.Out)
	noneBad(t, "without offloads, received by the guest's TAP", g.In)
	for _, kind := range []traffic.SumKind{traffic.SumIPv4, traffic.SumTCP4, traffic.SumUDP4, traffic.SumTCP6} {
		if f.In.Good[kind] == 0 {
			t.Errorf("finished by dom0, from the guest: no %s checksum was seen: %+v", kind, f.In)
		}
	}
}

// bothWays sends to a host behind the bridge and back, over IPv4 and IPv6.
func bothWays(t *T, guest, third place) {
	transfer(t, guest, third, ipv4(numberThird), 4*mib, 1)
	transfer(t, third, guest, ipv4(numberGuest), 4*mib, 1)
	transfer(t, guest, third, ipv6(numberThird), 2*mib, 1)
	transfer(t, third, guest, ipv6(numberGuest), 2*mib, 1)
}

// noneBad wants every checksum to be right.
func noneBad(t *T, what string, d traffic.Direction) {
	if d.Frames == 0 || len(d.Bad) != 0 {
		t.Errorf("%s: bad checksums %v in %d frames", what, d.Bad, d.Frames)
	}
}
