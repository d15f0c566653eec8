package netfront

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// disconnect writes XAPI's node of the vif, or removes it.
func (w *world) disconnect(value string) {
	w.t.Helper()
	path := xensim.FrontendPath(w.domain(), 0) + "/" + netif.KeyDisconnect
	if value == "" {
		w.check(w.server.Toolstack().Remove(w.deadline(), path))
		return
	}
	w.check(w.server.Toolstack().Write(w.deadline(), path, value))
}

// hasCarrier is what the kernel says.
func (w *world) hasCarrier() bool {
	w.t.Helper()
	link, err := netlink.LinkByName(w.dev.Name())
	w.check(err)
	return link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// wantCarrier waits until the TAP has a carrier, or none, and the status says why.
func (w *world) wantCarrier(on bool) {
	w.t.Helper()
	what := "no carrier of a disabled vif"
	if on {
		what = "the carrier of an enabled vif"
	}
	w.eventually(what, func() bool { return w.hasCarrier() == on && w.dev.Status().Disabled != on })
}

func TestVifThatTheToolstackDisablesHasNoCarrierUntilItIsEnabledAgain(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: zap.New(core)}})
	w.connected(1)
	ip := net.IP{10, 9, 8, 7}
	link, err := netlink.LinkByName(w.dev.Name())
	w.check(err)
	w.check(netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}}))
	announced := func() {
		for range announceRounds {
			w.fromGuest(gratuitousARP(guestMAC, ip))
		}
	}
	announced()
	for _, enabled := range []string{"0", ""} {
		w.disconnect("1")
		w.wantCarrier(false)
		if s := w.dev.Status(); s.State != "Connected" || s.Connects != 1 {
			t.Errorf("the connection ended: %+v", s)
		}
		w.disconnect(enabled)
		w.wantCarrier(true)
		announced()
	}
	for _, said := range []string{"the toolstack has disabled the vif: no carrier", "the toolstack has enabled the vif"} {
		if n := logs.FilterMessage(said).Len(); n != 2 {
			t.Errorf("%q was said %d times, want 2", said, n)
		}
	}
}

func TestDisabledVifHasNoCarrierAfterItsBackendComesBack(t *testing.T) {
	w := newWorld(t, worldConfig{offline: true})
	w.disconnect("1")
	w.backend(worldConfig{})
	reached := func(n uint64) {
		t.Helper()
		w.eventually("the connection", func() bool {
			s := w.dev.Status()
			return s.Connects >= n && s.BackendState == "Connected" && s.Disabled
		})
		w.check(w.vif.WaitConnected(w.deadline()))
		if w.hasCarrier() {
			t.Error("the TAP has a carrier")
		}
	}
	reached(1)
	w.check(w.vif.Rebind(w.deadline()))
	reached(2)
	w.disconnect("0")
	w.wantCarrier(true)
}

func TestDisabledVifHasNoCarrierAfterARestart(t *testing.T) {
	w, _ := newKeptWorld(t, worldConfig{back: netback.Options{}})
	w.connected(1)
	w.leave()
	w.disconnect("1")
	w.begin()
	w.eventually("the takeover", func() bool { return w.dev.Status().TakenOver })
	w.wantCarrier(false)
	w.leave()
	w.begin()
	w.wantCarrier(false)
	w.disconnect("0")
	w.wantCarrier(true)
	if s := w.dev.Status(); !s.TakenOver {
		t.Error("the connection is a new one")
	}
}

// Who detaches a vif removes the node with the rest: that enables nothing.
func TestDetachOfADisabledVifGivesNoCarrier(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: zap.New(core)}})
	w.connected(1)
	w.disconnect("1")
	w.wantCarrier(false)
	w.check(xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, 0, 0))
	w.eventually("the detach to be seen", func() bool { return logs.FilterMessage("waiting for the vif to be attached").Len() > 0 })
	if n := logs.FilterMessage("the toolstack has enabled the vif").Len(); n != 0 {
		t.Error("it was enabled")
	}
}
