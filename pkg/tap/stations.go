package tap

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// VLANTag is a VLAN tag of a frame.
type VLANTag struct {
	Protocol uint16 // 0x8100, or 0x88a8 of a provider's
	ID       uint16
}

// Station is what the network knows, or should, by an Ethernet address behind the link: the
// link itself, a VLAN, macvlan or ipvlan link on it, in whatever network namespace, a bridge
// or bond that it is part of, or somebody behind such a bridge.
type Station struct {
	MAC  net.HardwareAddr
	Tags []VLANTag // of its frames when they cross the link, the outermost first
	// IPs are its addresses, those alone that may be announced. None: nothing but the MAC
	// address is known, as of a machine behind a bridge.
	IPs []net.IP
}

// consistentTries bounds how often the stations are read again that changed while they were
// read.
const consistentTries = 16

// Stations finds all that is behind the link, the link's own first. Each MAC address belongs
// to the IP addresses beside it: they are read until none of both has changed meanwhile. It
// tells of what stands on links in other network namespaces as far as it may look there, and
// of the rest the MAC addresses that the link was told to take frames for.
func (d *Device) Stations() ([]Station, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, err := d.find()
	if errors.Is(err, ErrElsewhere) {
		mac, err := hardwareAddress(d.keeper)
		if err != nil {
			return nil, fmt.Errorf("find stations: %w", err)
		}
		return []Station{{MAC: mac}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find stations: %w", err)
	}
	namespaces := d.namespaces(l.ns)
	for range consistentTries {
		n, err := d.survey(namespaces)
		if err != nil {
			return nil, fmt.Errorf("find stations: %w", err)
		}
		d.surveyed()
		again, err := d.survey(namespaces)
		if err != nil {
			return nil, fmt.Errorf("find stations: %w", err)
		}
		at := place{l.ns, l.index}
		if list := again.stations(at); slices.EqualFunc(paired(n.stations(at)), paired(list), Station.equal) {
			return list, nil
		}
	}
	return nil, errors.New("find stations: links and addresses change all the time")
}

// namespaces are those in which links can stand on ours, the first being ours.
func (d *Device) namespaces(own int) []int {
	for _, path := range namespaceFiles() {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		_, _ = d.rt.namespaceID(fd) // so that it is among those with a number
		unix.Close(fd)
	}
	known, _ := d.rt.knownNamespaces()
	list := []int{own, home}
	self := d.selfID()
	for _, id := range append(known, home) {
		if id != self && !slices.Contains(list, id) {
			list = append(list, id)
		}
	}
	if own == home {
		list = list[1:]
	}
	return list
}

// place is where a link is.
type place struct{ ns, index int }

// neighbourhood is every link that was seen, with what it has.
type neighbourhood struct {
	list    []*linkInfo
	links   map[place]*linkInfo
	ips     map[place][]net.IP
	entries []bridgeEntry             // of home
	vlans   map[int]map[uint16]uint16 // of home's bridge ports: flags of each VLAN
}

// survey looks at all links of the namespaces. What may not be looked at is left out, but
// for the first of them.
func (d *Device) survey(namespaces []int) (*neighbourhood, error) {
	n := &neighbourhood{links: map[place]*linkInfo{}, ips: map[place][]net.IP{}}
	self := d.selfID()
	for i, ns := range namespaces {
		links, err := d.rt.links(ns)
		var ips map[int][]net.IP
		if err == nil {
			ips, err = d.rt.addresses(ns)
		}
		if err != nil {
			if i == 0 {
				return nil, err
			}
			continue
		}
		for _, l := range links {
			if l.parentNS == self {
				l.parentNS = home
			}
			n.list = append(n.list, l)
			n.links[place{ns, l.index}] = l
		}
		for index, list := range ips {
			n.ips[place{ns, index}] = list
		}
	}
	if namespaces[0] != home {
		return n, nil
	}
	var err error
	if n.entries, err = d.rt.bridgeEntries(); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(n.list, func(l *linkInfo) bool { return l.ns == home && l.filters }) {
		n.vlans, err = d.rt.portVLANs()
	}
	return n, err
}

// selfID is the number that home has in itself, which the kernel may use where a link of
// another namespace stands on one of home.
func (d *Device) selfID() int {
	id, err := d.rt.existingID(int(d.ns.handle))
	if err != nil {
		return home
	}
	return id
}

// paired are the stations of whom more is known than the MAC address.
func paired(list []Station) []Station {
	return slices.DeleteFunc(slices.Clone(list), func(s Station) bool { return len(s.IPs) == 0 })
}

func (s Station) equal(o Station) bool {
	return bytes.Equal(s.MAC, o.MAC) && slices.Equal(s.Tags, o.Tags) && slices.EqualFunc(s.IPs, o.IPs, net.IP.Equal)
}

// stations collects what is reached through the link at.
func (n *neighbourhood) stations(at place) []Station {
	w := walk{n: n, seen: map[place]bool{}}
	w.visit(at, nil)
	// Whatever else the link was told to take frames for: of a macvlan whose namespace may
	// not be looked into, say.
	for _, e := range n.entries {
		if e.own && at == (place{home, e.index}) && !w.has(e.mac) {
			w.found = append(w.found, Station{MAC: e.mac})
		}
	}
	return w.found
}

// walk goes from a link to all that stands on it.
type walk struct {
	n     *neighbourhood
	seen  map[place]bool
	found []Station
}

func (w *walk) has(mac net.HardwareAddr) bool {
	return slices.ContainsFunc(w.found, func(s Station) bool { return bytes.Equal(s.MAC, mac) })
}

// stacked are the kinds of links whose frames cross the link on which they stand as they are,
// but for a tag. (A VXLAN's are inside of packets from the link's own address.)
var stacked = []string{"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"}

// visit notes the link at, whose frames cross ours with tags, and goes on to what it carries.
// One that is down takes no frames.
func (w *walk) visit(at place, tags []VLANTag) {
	l := w.n.links[at]
	if l == nil || w.seen[at] || l.flags&unix.IFF_UP == 0 {
		return
	}
	w.seen[at] = true
	w.found = append(w.found, Station{MAC: l.mac, Tags: tags, IPs: w.n.ips[at]})
	for _, upper := range w.n.list {
		if (place{upper.parentNS, upper.parent}) != at || upper.parent == 0 || !slices.Contains(stacked, upper.kind) {
			continue
		}
		inner := tags
		if upper.kind == "vlan" {
			inner = append(slices.Clone(tags), upper.tag)
		}
		w.visit(place{upper.ns, upper.index}, inner)
	}
	master := place{at.ns, l.master}
	switch l.memberOf {
	case "team":
		w.visit(master, tags)
	case "bond":
		if l.forwarding {
			w.visit(master, tags)
		}
	case "bridge":
		if l.forwarding {
			w.bridge(l, master, tags)
		}
	}
}

// bridge notes what is behind the other ports of the bridge that port is one of, and the
// bridge itself.
func (w *walk) bridge(port *linkInfo, at place, tags []VLANTag) {
	b := w.n.links[at]
	if b == nil {
		return
	}
	if own, ok := w.n.crossing(b, port, w.n.primaryVLAN(b), tags); ok {
		w.visit(at, own)
	}
	for _, e := range w.n.entries {
		other := w.n.links[place{home, e.index}]
		if at.ns != home || !e.learned || e.index == port.index || other == nil || other.master != at.index {
			continue
		}
		if through, ok := w.n.crossing(b, port, e.vlan, tags); ok {
			w.found = append(w.found, Station{MAC: e.mac, Tags: through})
		}
	}
}

// Flags of a VLAN on a bridge's port (BRIDGE_VLAN_INFO_* of include/uapi/linux/if_bridge.h).
const (
	vlanPrimary  = 1 << 1
	vlanUntagged = 1 << 2
)

// crossing is with which tags a frame of a bridge's VLAN leaves through port, and whether it
// does.
func (n *neighbourhood) crossing(b, port *linkInfo, vlan uint16, tags []VLANTag) ([]VLANTag, bool) {
	if !b.filters || vlan == 0 {
		return tags, true
	}
	flags, ok := n.vlans[port.index][vlan]
	if flags&vlanUntagged == 0 {
		tags = append(slices.Clone(tags), VLANTag{Protocol: 0x8100, ID: vlan})
	}
	return tags, ok
}

// primaryVLAN is the VLAN of a bridge's own frames; 0: none.
func (n *neighbourhood) primaryVLAN(b *linkInfo) uint16 {
	for vlan, flags := range n.vlans[b.index] {
		if flags&vlanPrimary != 0 {
			return vlan
		}
	}
	return 0
}

// String is the station in short, for people.
func (s Station) String() string {
	var b strings.Builder
	for _, t := range s.Tags {
		fmt.Fprintf(&b, "VLAN %d ", t.ID)
	}
	b.WriteString(cmp.Or(s.MAC.String(), "no address"))
	for _, ip := range s.IPs {
		b.WriteString(" " + ip.String())
	}
	return b.String()
}
