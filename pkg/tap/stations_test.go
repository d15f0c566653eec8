package tap

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// stationTexts are the stations behind d in short, without the addresses that the kernel
// gives by itself.
func stationTexts(t *testing.T, d *Device) (texts []string) {
	t.Helper()
	list, err := d.Stations()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		s.IPs = slices.DeleteFunc(slices.Clone(s.IPs), net.IP.IsLinkLocalUnicast)
		texts = append(texts, s.String())
	}
	return texts
}

// ownAddresses are those of the link itself.
func ownAddresses(t *testing.T, d *Device) []net.IP {
	t.Helper()
	list, err := d.Stations()
	if err != nil || len(list) == 0 {
		t.Fatalf("stations %v: %v", list, err)
	}
	return list[0].IPs
}

func hardware(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 1, n} }

// addLink makes a link, or skips the test where the kernel has none of its kind.
func addLink(t *testing.T, links *netlink.Handle, link netlink.Link) {
	t.Helper()
	err := links.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) || err != nil && strings.Contains(err.Error(), "not supported") {
		needs.LeaveOut(t, "a kernel with links of kind "+link.Type())
	}
	if err != nil {
		t.Fatalf("make a link of kind %s: %v", link.Type(), err)
	}
}

func attrs(name string, parent int, mac net.HardwareAddr) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name, a.ParentIndex, a.HardwareAddr = name, parent, mac
	return a
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

func wantStations(t *testing.T, d *Device, want ...string) {
	t.Helper()
	got := stationTexts(t, d)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("stations\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMacvlansAreStationsInWhateverNamespace(t *testing.T) {
	enterNamespace(t)
	links := here(t)
	d, _ := liveDevice(t, Config{Name: "xnf0", MAC: testMAC}, 1)
	blue := newSpace(t)
	addLink(t, links, &netlink.Macvlan{LinkAttrs: attrs("mv0", d.Index(), hardware(1)), Mode: netlink.MACVLAN_MODE_BRIDGE})
	giveAddress(t, links, "mv0", "10.0.0.1/24")
	addLink(t, links, &netlink.Macvlan{LinkAttrs: attrs("mv1", d.Index(), hardware(2)), Mode: netlink.MACVLAN_MODE_BRIDGE})
	blue.take("mv1")
	blue.give("mv1", "10.0.0.2/24")
	addLink(t, links, &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs("mt0", d.Index(), hardware(3)), Mode: netlink.MACVLAN_MODE_BRIDGE}})
	if link, err := links.LinkByName("mt0"); err != nil || links.LinkSetUp(link) != nil {
		t.Fatal(err)
	}
	wantStations(t, d, testMAC.String(), hardware(1).String()+" 10.0.0.1", hardware(2).String()+" 10.0.0.2", hardware(3).String())
	// And when the link itself moves to one of them, or to a third.
	green := newSpace(t)
	green.take("xnf0")
	green.give("xnf0", "10.0.0.9/24")
	if err := d.SetCarrier(true); err != nil {
		t.Fatal(err)
	}
	wantStations(t, d, testMAC.String()+" 10.0.0.9", hardware(1).String()+" 10.0.0.1", hardware(2).String()+" 10.0.0.2", hardware(3).String())
}

func TestVLANsAreStationsWithTheirTags(t *testing.T) {
	enterNamespace(t)
	links := here(t)
	d, _ := liveDevice(t, Config{Name: "xnf0", MAC: testMAC}, 1)
	addLink(t, links, &netlink.Vlan{LinkAttrs: attrs("xnf0.5", d.Index(), nil), VlanId: 5})
	giveAddress(t, links, "xnf0.5", "10.0.5.1/24")
	parent, err := links.LinkByName("xnf0.5")
	if err != nil {
		t.Fatal(err)
	}
	addLink(t, links, &netlink.Vlan{LinkAttrs: attrs("xnf0.5.6", parent.Attrs().Index, nil), VlanId: 6})
	giveAddress(t, links, "xnf0.5.6", "10.0.6.1/24")
	wantStations(t, d, testMAC.String(), "VLAN 5 "+testMAC.String()+" 10.0.5.1", "VLAN 5 VLAN 6 "+testMAC.String()+" 10.0.6.1")
}

func TestIpvlansAreStations(t *testing.T) {
	enterNamespace(t)
	links := here(t)
	d, _ := liveDevice(t, Config{Name: "xnf0", MAC: testMAC}, 1)
	blue := newSpace(t)
	addLink(t, links, &netlink.IPVlan{LinkAttrs: attrs("iv0", d.Index(), nil), Mode: netlink.IPVLAN_MODE_L2})
	blue.take("iv0")
	blue.give("iv0", "10.0.0.3/24")
	wantStations(t, d, testMAC.String(), testMAC.String()+" 10.0.0.3")
}

func TestWhatIsBehindABridgeIsAStation(t *testing.T) {
	enterNamespace(t)
	noIPv6(t)
	links := here(t)
	d, _ := liveDevice(t, Config{Name: "xnf0", MAC: testMAC}, 1)
	addLink(t, links, &netlink.Bridge{LinkAttrs: attrs("br0", 0, hardware(1))})
	veth := &netlink.Veth{LinkAttrs: attrs("port", 0, nil), PeerName: "peer"}
	addLink(t, links, veth)
	bridge, err := links.LinkByName("br0")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"xnf0", "port"} {
		port, err := links.LinkByName(name)
		if err := errors.Join(err, links.LinkSetMaster(port, bridge), links.LinkSetUp(port)); err != nil {
			t.Fatal(err)
		}
	}
	giveAddress(t, links, "br0", "10.0.0.1/24")
	giveAddress(t, links, "peer", "10.0.0.2/24")
	peer, err := links.LinkByName("peer")
	if err != nil {
		t.Fatal(err)
	}
	// What has been learnt and what was told, and not what is behind the TAP itself.
	port, _ := links.LinkByName("port")
	for _, e := range []netlink.Neigh{
		{LinkIndex: port.Attrs().Index, HardwareAddr: hardware(7), State: netlink.NUD_NOARP},
		{LinkIndex: d.Index(), HardwareAddr: hardware(8), State: netlink.NUD_NOARP},
	} {
		e.Family, e.Flags = unix.AF_BRIDGE, netlink.NTF_MASTER
		if err := links.NeighAdd(&e); err != nil {
			t.Fatal(err)
		}
	}
	socket := newPacketSocket(t, peer.Attrs().Index)
	socket.send(append(append(append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, hardware(9)...), 8, 6), make([]byte, 46)...))
	await.That(t, "the bridge to learn", func() bool {
		return slices.Contains(stationTexts(t, d), hardware(9).String())
	})
	wantStations(t, d, testMAC.String(), hardware(1).String()+" 10.0.0.1", hardware(7).String(), hardware(9).String())
}

// Frames of a bridge with VLAN filtering leave with the tag that the port gives them.
func TestFramesOfABridgesVLANCrossItsPortAsThePortHasIt(t *testing.T) {
	n := &neighbourhood{
		links: map[place]*linkInfo{},
		vlans: map[int]map[uint16]uint16{1: {1: vlanPrimary | vlanUntagged, 5: 0}, 9: {1: vlanPrimary | vlanUntagged}},
	}
	bridge, port := &linkInfo{index: 9, filters: true}, &linkInfo{index: 1}
	outer := []VLANTag{{0x88a8, 3}}
	for _, c := range []struct {
		vlan uint16
		want []VLANTag
		ok   bool
	}{
		{0, outer, true}, {1, outer, true}, {5, []VLANTag{{0x88a8, 3}, {0x8100, 5}}, true}, {7, nil, false},
	} {
		got, ok := n.crossing(bridge, port, c.vlan, outer)
		if ok != c.ok || ok && !slices.Equal(got, c.want) {
			t.Errorf("VLAN %d: %v, %t", c.vlan, got, ok)
		}
	}
	if v := n.primaryVLAN(bridge); v != 1 {
		t.Errorf("the bridge's own frames are of VLAN %d", v)
	}
}

func TestMasterOfTheLinkIsAStationAsFarAsItUsesTheLink(t *testing.T) {
	tap := &linkInfo{ns: home, parentNS: home, index: 1, mac: testMAC, flags: unix.IFF_UP, master: 2, memberOf: "bond", forwarding: true}
	bond := &linkInfo{ns: home, parentNS: home, index: 2, mac: hardware(2), flags: unix.IFF_UP, kind: "bond"}
	vlan := &linkInfo{ns: home, parentNS: home, index: 3, mac: hardware(2), flags: unix.IFF_UP, kind: "vlan", parent: 2, tag: VLANTag{0x8100, 7}}
	tunnel := &linkInfo{ns: home, parentNS: home, index: 4, mac: hardware(4), flags: unix.IFF_UP, kind: "vxlan", parent: 2}
	n := &neighbourhood{list: []*linkInfo{tap, bond, vlan, tunnel}, links: map[place]*linkInfo{}, ips: map[place][]net.IP{{home, 3}: {net.IP{10, 0, 7, 1}}}}
	for _, l := range n.list {
		n.links[place{l.ns, l.index}] = l
	}
	text := fmt.Sprint(n.stations(place{home, 1}))
	if want := fmt.Sprintf("[%s %s VLAN 7 %s 10.0.7.1]", testMAC, hardware(2), hardware(2)); text != want {
		t.Errorf("stations %s, want %s", text, want)
	}
	tap.forwarding = false
	if text := fmt.Sprint(n.stations(place{home, 1})); text != fmt.Sprintf("[%s]", testMAC) {
		t.Errorf("through a slave in reserve: %s", text)
	}
}

// What is announced teaches the network: a pair that never was would take the guest off it.
func TestMACAndAddressesBelongTogether(t *testing.T) {
	enterNamespace(t)
	links := here(t)
	d, _ := liveDevice(t, Config{Name: "xnf0", MAC: testMAC}, 1)
	giveAddress(t, links, "xnf0", "10.0.0.1/24")
	other := hardware(9)
	d.surveyed = func() { // between the looks at the one and at the other
		d.surveyed = func() {}
		if err := setHardwareAddress(d.keeper, other); err != nil {
			t.Error(err)
		}
		giveAddress(t, links, "xnf0", "10.0.0.2/24")
	}
	wantStations(t, d, other.String()+" 10.0.0.1 10.0.0.2")
}

func TestChangesAreToldOfEveryNamespace(t *testing.T) {
	enterNamespace(t)
	links := here(t)
	d, _ := liveDevice(t, Config{Name: "xnf0", MAC: testMAC}, 1)
	blue := newSpace(t)
	blue.take("xnf0") // and so it has a number
	if !d.HearsOfOthers() {
		t.Fatal("as root it does not hear of other namespaces")
	}
	told := func(what string, change func()) {
		for len(d.Changes()) > 0 {
			<-d.Changes()
		}
		change()
		await.That(t, "word of "+what, func() bool { return len(d.Changes()) > 0 })
	}
	told("an address elsewhere", func() { blue.give("xnf0", "10.0.0.1/24") })
	told("an address here", func() { giveAddress(t, links, "lo", "10.0.0.2/24") })
	told("a MAC address", func() {
		if err := d.SetMAC(hardware(7)); err != nil {
			t.Error(err)
		}
	})
}
