package netfront

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

var broadcast = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// observed is a log that tests look at.
func observed(level zapcore.Level) (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(level)
	return zap.New(core), logs
}

// reattach has the toolstack take the vif away and bring another one under its number.
func (w *world) reattach(c xensim.VifConfig) {
	w.t.Helper()
	before := w.dev.Status().Connects
	w.check(xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, 0, 10*time.Second))
	c.Frontend, c.Backend = guestDom, driverDom
	w.check(xensim.AttachVif(w.deadline(), w.server.Toolstack(), c))
	w.eventually("the next connection", func() bool { return w.dev.Status().Connects > before })
	w.newBackend()
	w.connected(before + 1)
}

// newBackend finds the backend's end of the vif that there is now.
func (w *world) newBackend() {
	w.t.Helper()
	w.eventually("the backend's new vif", func() bool {
		v, err := w.back.Vif(w.deadline(), netback.VifID{Frontend: guestDom})
		w.check(err)
		changed := v != w.vif
		w.vif = v
		return changed
	})
	w.port = w.vif.MemoryPort()
}

func (w *world) link() netlink.Link {
	w.t.Helper()
	link, err := netlink.LinkByName(w.dev.Name())
	w.check(err)
	return link
}

func giveAddress(t *testing.T, links *netlink.Handle, link netlink.Link, cidr string) {
	t.Helper()
	addr, err := netlink.ParseAddr(cidr)
	if err == nil {
		addr.Flags = unix.IFA_F_NODAD
		err = errors.Join(links.AddrAdd(link, addr), links.LinkSetUp(link))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func here(t *testing.T) *netlink.Handle {
	t.Helper()
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(links.Close)
	return links
}

// awaitFrames waits until the backend has got each of these frames as often as said.
func (w *world) awaitFrames(times int, want ...[]byte) {
	w.t.Helper()
	left := map[string]int{}
	for _, f := range want {
		left[string(f)] = times
	}
	for len(left) > 0 {
		f := string(w.fromGuest(nil).Frame)
		if n, ok := left[f]; ok && n > 1 {
			left[f]--
		} else {
			delete(left, f)
		}
	}
}

var otherMAC = net.HardwareAddr{0, 0x16, 0x3e, 7, 7, 7}

func TestVifThatIsAttachedAnewWithAnotherAddressAndMTUGivesThemToItsTAP(t *testing.T) {
	log, logs := observed(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}})
	w.connected(1)
	giveAddress(t, here(t), w.link(), "10.9.8.7/24")
	w.reattach(xensim.VifConfig{MAC: otherMAC, MTU: 4000})
	if a := w.link().Attrs(); a.HardwareAddr.String() != otherMAC.String() || a.MTU != 4000 {
		t.Errorf("the TAP has address %v, MTU %d", a.HardwareAddr, a.MTU)
	}
	if s := w.dev.Status(); s.MAC != otherMAC.String() || s.LinkMAC != "" || s.MTU != 4000 {
		t.Errorf("status: vif %s, TAP %s, MTU %d", s.MAC, s.LinkMAC, s.MTU)
	}
	w.awaitFrames(1, gratuitousARP(otherMAC, net.IP{10, 9, 8, 7}))
	// The same again is no change.
	w.reattach(xensim.VifConfig{MAC: otherMAC, MTU: 4000})
	if n := logs.FilterField(event(EventChanged)).Len(); n != 1 {
		t.Errorf("%d lines about it: %v", n, logs.All())
	}
}

func TestAddressAndMTUOfAnAdministratorOrTheConfigurationLast(t *testing.T) {
	w := newWorld(t, worldConfig{front: Config{MTU: 3000}})
	w.connected(1)
	wish := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	w.check(netlink.LinkSetHardwareAddr(w.link(), wish))
	w.reattach(xensim.VifConfig{MAC: otherMAC, MTU: 4000})
	if a := w.link().Attrs(); a.HardwareAddr.String() != wish.String() || a.MTU != 3000 {
		t.Errorf("the TAP has address %v, MTU %d", a.HardwareAddr, a.MTU)
	}
	if s := w.dev.Status(); s.MAC != otherMAC.String() || s.LinkMAC != wish.String() {
		t.Errorf("status: vif %s, TAP %s", s.MAC, s.LinkMAC)
	}
	w.check(netlink.LinkSetMTU(w.link(), 2000))
	w.check(netlink.LinkSetTxQLen(w.link(), 77))
	w.reattach(xensim.VifConfig{MAC: otherMAC, MTU: 5000})
	if a := w.link().Attrs(); a.MTU != 2000 || a.TxQLen != 77 || w.dev.Status().MTU != 2000 {
		t.Errorf("MTU %d, queue of %d; status %d", a.MTU, a.TxQLen, w.dev.Status().MTU)
	}
}

func TestNonsenseOfTheToolstackLeavesTheTAPAsItWas(t *testing.T) {
	log, logs := observed(zap.WarnLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}})
	w.connected(1)
	dir := xensim.FrontendPath(guestDom, 0)
	w.check(w.server.Toolstack().Write(w.deadline(), dir+"/mac", "none"))
	w.dev.learnAgain(t, w)
	if a := w.link().Attrs(); a.HardwareAddr.String() != guestMAC.String() || logs.FilterField(event(EventIdentity)).Len() != 1 {
		t.Errorf("address %v; %v", a.HardwareAddr, logs.All())
	}
	// What is no address takes nothing from the MTU, and is said once.
	w.setMTU(0, "4000")
	w.dev.learnAgain(t, w)
	if a := w.link().Attrs(); a.MTU != 4000 || logs.FilterField(event(EventIdentity)).Len() != 1 {
		t.Errorf("MTU %d; %v", a.MTU, logs.All())
	}
	w.check(w.server.Toolstack().Write(w.deadline(), dir+"/mac", otherMAC.String()))
	w.dev.learnAgain(t, w)
	if a := w.link().Attrs(); a.HardwareAddr.String() != otherMAC.String() {
		t.Errorf("address %v", a.HardwareAddr)
	}
}

// Xen's hotplug script writes the bridge's MTU for a vif that has none in its configuration.
func TestMTUThatTheHotplugScriptFindsIsTheTAPs(t *testing.T) {
	w := newWorld(t, worldConfig{back: netback.Options{HotplugDelay: -1}, vif: xensim.VifConfig{Script: "vif-bridge"}})
	w.eventually("the rings to be there", func() bool { return w.dev.Status().State == "Initialised" })
	store := w.server.Toolstack()
	w.check(store.Write(w.deadline(), xensim.FrontendPath(guestDom, 0)+"/"+netif.KeyMTU, "9000"))
	w.check(store.Write(w.deadline(), xensim.BackendPath(driverDom, guestDom, 0)+"/"+netif.KeyHotplugStatus, "connected"))
	w.connected(1)
	if a, s := w.link().Attrs(), w.dev.Status(); a.MTU != 9000 || s.MTU != 9000 {
		t.Errorf("MTU %d, status says %d", a.MTU, s.MTU)
	}
}

func TestLineAboutAChangedVifSaysWhatTheTAPKeeps(t *testing.T) {
	log, logs := observed(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}})
	w.connected(1)
	w.check(netlink.LinkSetMTU(w.link(), 1450))
	w.reattach(xensim.VifConfig{MAC: otherMAC, MTU: 4000})
	w.reattach(xensim.VifConfig{MAC: otherMAC, MTU: 5000})
	w.reattach(xensim.VifConfig{MAC: otherMAC, MTU: 1450}) // what the administrator wanted
	for i, want := range []string{"MTU 1450, which somebody has set", "MTU 1450, which somebody has set", ""} {
		said := logs.FilterField(event(EventChanged)).All()
		if len(said) != 3 || said[i].ContextMap()["tap_keeps"] != want {
			t.Errorf("line %d of %v: want %q", i, said, want)
		}
	}
}

// learnAgain has the Device, which runs, make another connection.
func (d *Device) learnAgain(t *testing.T, w *world) {
	t.Helper()
	dir := xensim.BackendPath(driverDom, guestDom, 0)
	before := d.Status().Connects
	w.check(w.server.Toolstack().Write(w.deadline(), dir+"/state", "5"))
	w.eventually("another connection", func() bool { return d.Status().Connects > before })
}

// A kernel driver's netdev keeps a wish over each reconnect.
func TestOffloadThatWasSwitchedOffStaysOff(t *testing.T) {
	enterNamespace(t)
	link, err := tap.Create(tap.Config{Name: "xnf0"})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	d := &Device{link: link, log: zap.NewNop()}
	want := func(what string, want tap.Offload) {
		t.Helper()
		if on, err := link.WantedOffload(); err != nil || on != want {
			t.Errorf("%s: %#x is on, want %#x: %v", what, on, want, err)
		}
	}
	all := AllFeatures()
	without6 := features(func(f *Features) { f.GSOv6 = false })
	none := Features{SG: true}
	step := func(what string, f Features, o tap.Offload) {
		t.Helper()
		if err := d.configureOffload(f); err != nil {
			t.Fatal(err)
		}
		want(what, o)
	}
	const csum, tso4, tso6 = tap.OffloadCsum, tap.OffloadTSO4, tap.OffloadTSO6
	step("at first", all, csum|tso4|tso6)
	if err := link.SwitchOff(tso4); err != nil { // ethtool -K xnf0 tx-tcp-segmentation off
		t.Fatal(err)
	}
	step("the same again", all, csum|tso6)
	step("less", without6, csum)
	step("nothing", none, 0)
	step("all again", all, csum|tso6)
	if err := errors.Join(link.SetOffload(csum | tso4 | tso6)); err != nil { // on again
		t.Fatal(err)
	}
	step("with the wish gone", without6, csum|tso4)
	// And over a restart.
	if err := link.SwitchOff(csum); err != nil {
		t.Fatal(err)
	}
	next := &Device{link: link, log: zap.NewNop(), set: settingsOf(d.set.label("xnf0"))}
	if err := next.configureOffload(all); err != nil {
		t.Fatal(err)
	}
	want("in the next process", tso4|tso6)
}

func TestMTUOfAnAdministratorLastsAsFarAsTheRingCarriesIt(t *testing.T) {
	s := settings{MTU: 9000}
	for i, c := range []struct{ target, limit, now, want int }{
		{9000, maxMTU, 9000, 9000},
		{9000, 1500, 9000, 1500}, // a backend without sg
		{9000, maxMTU, 1500, 9000},
		{9000, maxMTU, 1400, 1400}, // an administrator's
		{4000, maxMTU, 1400, 1400}, // and the toolstack has another
		{4000, maxMTU, 8000, 8000},
		{4000, 1500, 8000, 1500},
		{4000, maxMTU, 1500, 8000},
		{4000, maxMTU, 4000, 4000}, // as if nobody wished anything
		{3000, maxMTU, 4000, 3000},
	} {
		if got := s.chooseMTU(c.target, c.limit, c.now); got != c.want {
			t.Errorf("step %d: MTU %d, want %d; %+v", i, got, c.want, s)
		}
		s.MTU = c.want
	}
}

// otherSpace is one more network namespace.
func otherSpace(t *testing.T) (netns.NsHandle, *netlink.Handle) {
	t.Helper()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	ns, err := netns.New()
	if err = errors.Join(err, netns.Set(before)); err != nil {
		t.Fatal(err)
	}
	links, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		links.Close()
		ns.Close()
	})
	return ns, links
}

// socketIn opens w.sock anew in the namespace that the TAP is in now.
func (w *world) socketIn(ns netns.NsHandle) {
	w.t.Helper()
	before, err := netns.Get()
	w.check(err)
	defer before.Close()
	unix.Close(w.sock)
	w.check(netns.Set(ns))
	w.openSocket()
	w.check(netns.Set(before))
}

// followedTo waits for the carrier in another namespace.
func (w *world) followedTo(links *netlink.Handle, n uint64) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("connection %d", n), func() bool {
		s := w.dev.Status()
		return s.Connects >= n && s.State == "Connected" && s.BackendState == "Connected" && len(s.Queues) > 0
	})
	w.eventually("the TAP's carrier", func() bool {
		link, err := links.LinkByName(w.dev.Name())
		w.check(err)
		return link.Attrs().RawFlags&unix.IFF_RUNNING != 0
	})
	w.check(w.vif.WaitConnected(w.deadline()))
	w.port = w.vif.MemoryPort()
	w.check(w.port.WaitCarrier(w.deadline(), true))
}

func TestTAPThatWasMovedToAnotherNamespaceIsServedThere(t *testing.T) {
	h := newShelf(t)
	log, logs := observed(zap.InfoLevel)
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}, front: Config{Holder: h, Logger: log, Queues: 2}})
	w.connected(1)
	ns, links := otherSpace(t)
	w.check(netlink.LinkSetNsFd(w.link(), int(ns)))
	moved, err := links.LinkByName(w.dev.Name())
	w.check(err)
	giveAddress(t, links, moved, "10.9.8.7/24")
	w.socketIn(ns)
	arp := gratuitousARP(guestMAC, net.IP{10, 9, 8, 7})
	w.awaitFrames(1, arp) // as an address that is new
	w.roundTrip(1514)
	w.eventually("a line about it", func() bool { return logs.FilterField(event(EventMoved)).Len() == 1 })
	if s := w.dev.Status(); s.NetNS == "" || s.IfIndex == 0 || !s.LinkUp || s.Link == nil || s.MTU != 1500 {
		t.Errorf("status %+v", s)
	}

	w.check(w.vif.Rebind(w.deadline()))
	w.followedTo(links, 2)
	w.awaitFrames(1, arp)
	w.roundTrip(1514)

	before := w.dev.Status().Connects
	w.check(xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, 0, 10*time.Second))
	w.check(xensim.AttachVif(w.deadline(), w.server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: driverDom, MAC: otherMAC, MTU: 3000}))
	w.eventually("the connection of the vif that was attached", func() bool { return w.dev.Status().Connects > before })
	w.newBackend()
	w.followedTo(links, before+1)
	w.awaitFrames(1, gratuitousARP(otherMAC, net.IP{10, 9, 8, 7}))
	w.roundTrip(1514)
	if s := w.dev.Status(); s.MTU != 3000 || s.LinkMAC != "" || s.NetNS == "" {
		t.Errorf("status %+v", s)
	}

	// A restart.
	w.stop(ErrLeave)
	w.check(<-w.ran)
	w.check(w.dev.Close())
	w.check(w.front.Close())
	w.begin()
	w.eventually("the connection to be taken over", func() bool { return w.dev.Status().TakenOver })
	w.roundTrip(1514)
	if _, err := netlink.LinkByName(w.dev.Name()); err == nil {
		t.Error("there is a new TAP, too")
	}
	if s := w.dev.Status(); s.NetNS == "" {
		t.Errorf("status %+v", s)
	}
	if n := logs.FilterMessage("disconnected").FilterField(zap.String("cause", "error")).Len(); n != 0 {
		t.Errorf("a connection ended: %v", logs.All())
	}
}

// A new MTU of the vif, or of the configuration, is no reason for a new connection.
func TestRestartAfterANewMTUTakesTheConnectionOver(t *testing.T) {
	h := newShelf(t)
	w := newWorld(t, worldConfig{front: Config{Holder: h}})
	w.connected(1)
	w.check(w.server.Toolstack().Write(w.deadline(), xensim.FrontendPath(guestDom, 0)+"/mtu", "4000"))
	next := func() {
		w.stop(ErrLeave)
		w.check(<-w.ran)
		w.check(w.dev.Close())
		w.check(w.front.Close())
		w.begin()
		w.eventually("the connection to be taken over", func() bool { return w.dev.Status().TakenOver })
	}
	next()
	if mtu := w.link().Attrs().MTU; mtu != 4000 {
		t.Errorf("MTU %d", mtu)
	}
	w.config.front.MTU, w.config.front.TxQueueLen = 3000, 500
	next()
	if a := w.link().Attrs(); a.MTU != 3000 || a.TxQLen != 500 {
		t.Errorf("MTU %d, queue of %d", a.MTU, a.TxQLen)
	}
	w.check(netlink.LinkSetMTU(w.link(), 2000))
	next()
	if a := w.link().Attrs(); a.MTU != 2000 {
		t.Errorf("MTU %d, an administrator's was 2000", a.MTU)
	}
	w.roundTrip(1514)
}

// Many more addresses than the ring has slots, of the TAP, of a macvlan in another namespace,
// and a machine behind a bridge.
func TestEverythingBehindTheTAPIsAnnouncedInSeveralRounds(t *testing.T) {
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}})
	w.connected(1)
	links := here(t)
	link := w.link()
	_, space := otherSpaceWith(t, w, link)
	var want [][]byte
	for i := range 601 {
		ip := net.IP{10, 9, byte(i >> 8), byte(i)}
		w.check(links.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(8, 32)}}))
		want = append(want, gratuitousARP(guestMAC, ip))
	}
	giveAddress(t, links, link, "2001:db8::1/64")
	want = append(want, unsolicitedNA(guestMAC, net.ParseIP("2001:db8::1")))
	mv, err := space.LinkByName("mv0")
	w.check(err)
	giveAddress(t, space, mv, "10.200.0.1/24")
	want = append(want, gratuitousARP(mv.Attrs().HardwareAddr, net.IP{10, 200, 0, 1}))
	w.port.Discard()
	w.check(w.vif.Rebind(w.deadline()))
	w.connected(2)
	w.awaitFrames(announceRounds, want...)
	w.eventually("the count", func() bool {
		n := uint64(0)
		for _, q := range w.dev.Status().Totals {
			n += q.Tx["announced"]
		}
		return n >= uint64(announceRounds*len(want))
	})
}

// otherSpaceWith is a namespace with a macvlan mv0 on the TAP.
func otherSpaceWith(t *testing.T, w *world, link netlink.Link) (netns.NsHandle, *netlink.Handle) {
	t.Helper()
	ns, space := otherSpace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.HardwareAddr = "mv0", link.Attrs().Index, net.HardwareAddr{2, 0, 0, 0, 5, 5}
	mv := &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	if err := netlink.LinkAdd(mv); err != nil && strings.Contains(err.Error(), "not supported") {
		needs.LeaveOut(t, "a kernel with macvlan")
	} else {
		w.check(err)
	}
	w.check(netlink.LinkSetNsFd(mv, int(ns)))
	return ns, space
}

func TestMachinesBehindABridgeAreAnnouncedByRARP(t *testing.T) {
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}})
	w.connected(1)
	links := here(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	w.check(links.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	attrs.Name = "port"
	w.check(links.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}))
	bridge, err := links.LinkByName("br0")
	w.check(err)
	port, err := links.LinkByName("port")
	w.check(err)
	for _, l := range []netlink.Link{bridge, port, w.link()} {
		if l != bridge {
			w.check(links.LinkSetMaster(l, bridge))
		}
		w.check(links.LinkSetUp(l))
	}
	machine := net.HardwareAddr{2, 0, 0, 0, 9, 9}
	w.check(links.NeighAdd(&netlink.Neigh{LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: machine}))
	w.check(w.vif.Rebind(w.deadline()))
	w.connected(2)
	w.awaitFrames(announceRounds, reverseARP(machine))
}

func TestFramesOfAVLANAreAnnouncedWithTheirTags(t *testing.T) {
	f := announcement([]tap.Station{{MAC: guestMAC, Tags: []tap.VLANTag{{Protocol: 0x88a8, ID: 3}, {Protocol: 0x8100, ID: 5}}, IPs: []net.IP{net.IP{10, 0, 0, 1}}}})
	want := append(append([]byte{}, broadcast...), guestMAC...)
	want = append(want, 0x88, 0xa8, 0, 3, 0x81, 0, 0, 5, 8, 6)
	if len(f) != 1 || !bytes.HasPrefix(f[0], want) || len(f[0]) != 42+8 {
		t.Errorf("%x, want %x", f, want)
	}
}

func TestRenamedTAPIsKnownByItsPresentName(t *testing.T) {
	log, logs := observed(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}})
	w.connected(1)
	w.check(netlink.LinkSetName(w.link(), "uplink"))
	w.eventually("a line about it", func() bool { return logs.FilterField(event(EventRenamed)).Len() == 1 })
	if s := w.dev.Status(); s.TAP != "uplink" || w.dev.Name() != "uplink" {
		t.Errorf("status: %q, name %q", s.TAP, w.dev.Name())
	}
	if name := logs.FilterField(event(EventRenamed)).All()[0].ContextMap()["tap"]; name != "uplink" {
		t.Errorf("the log calls it %v", name)
	}
	w.roundTrip(1514)
}

func TestStatusSaysWhatTheLinkIsLikeNow(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	w.check(netlink.LinkSetMTU(w.link(), 1300))
	if s := w.dev.Status(); s.MTU != 1300 || !s.LinkUp {
		t.Errorf("MTU %d, up %t", s.MTU, s.LinkUp)
	}
	w.check(netlink.LinkSetDown(w.link()))
	if s := w.dev.Status(); s.LinkUp {
		t.Error("a link that is down is up")
	}
	w.check(netlink.LinkSetUp(w.link()))
}

func TestDetachIsNoReasonToSayThatTheVifWasNotLeft(t *testing.T) {
	log, logs := observed(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}})
	w.connected(1)
	for range 3 {
		w.reattach(xensim.VifConfig{MAC: guestMAC})
	}
	if l := logs.FilterField(event(EventNotLeft)); l.Len() != 0 {
		t.Errorf("%v", l.All())
	}
	// However far the toolstack is when the vif is to be left.
	a, err := findVif(w.deadline(), w.front.Guest().Store, 0)
	w.check(err)
	b, err := openBus(w.deadline(), w.front.Guest().Store, a, w.dev.setBackendState)
	w.check(err)
	w.check(xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, 0, 10*time.Second))
	if err := b.clear(w.deadline()); !errors.Is(err, errMoved) {
		t.Errorf("clear what is gone: %v", err)
	}
	w.check(b.close())
	w.vif = nil
}

func TestTAPInAnotherNamespaceLivesThroughARestoreWithItsWishes(t *testing.T) {
	w, h := newKeptWorld(t, worldConfig{})
	w.connected(1)
	w.check(w.dev.link.SwitchOff(tap.OffloadTSO6))
	ns, links := otherSpace(t)
	w.check(netlink.LinkSetNsFd(w.link(), int(ns)))
	moved, err := links.LinkByName(w.dev.Name())
	w.check(err)
	w.check(links.LinkSetMTU(moved, 1400))
	giveAddress(t, links, moved, "10.9.8.7/24")
	w.socketIn(ns)
	w.restore(guestDom + 1)
	w.followedTo(links, 2)
	w.exchange(50, 100)
	on, err := w.dev.link.WantedOffload()
	if s := w.dev.Status(); err != nil || on&tap.OffloadTSO6 != 0 || on&tap.OffloadTSO4 == 0 || s.MTU != 1400 || s.NetNS == "" {
		t.Errorf("offloads %#x, %v; status %+v", on, err, s)
	}
	w.unhurt(h, 1)
}
