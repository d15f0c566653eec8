package tap

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// home stands for the network namespace in which the device was made. Others have a number
// there (nsid of ip-netns(8)).
const home = -1

// errNoLink says that a namespace has no such link.
var errNoLink = errors.New("no such link")

// rtnl asks rtnetlink of the namespace in which it was opened, and through it of others
// (IFLA_TARGET_NETNSID): that needs CAP_NET_ADMIN, in effect, and no setns, for which a
// sandboxed process lacks CAP_SYS_ADMIN. Several goroutines may call it.
type rtnl struct {
	sockets    map[int]*nl.SocketHandle
	privileged func(func() error) error
}

// openRTNL opens the socket with privileges: what may be sent through it depends on what
// its opener was allowed, too (netlink_ns_capable of net/netlink/af_netlink.c).
func openRTNL(privileged func(func() error) error) (*rtnl, error) {
	r := &rtnl{privileged: privileged}
	err := privileged(func() error {
		s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		r.sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
		// Without it the kernel ignores the namespace in a dump of addresses
		// (inet_dump_addr of net/ipv4/devinet.c).
		return errors.Join(unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1),
			s.SetReceiveTimeout(&nl.SocketTimeoutTv))
	})
	if err != nil {
		r.close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return r, nil
}

func (r *rtnl) close() {
	if r == nil {
		return
	}
	for _, s := range r.sockets {
		s.Close()
	}
}

// ask sends one request about namespace ns and returns the answers of type reply. Target is
// the attribute that names a namespace. A listing that changed while it was read is read
// again. What changes something, and what is about another namespace, is asked with
// privileges.
func (r *rtnl) ask(ns int, target int, kind, flags int, reply uint16, data ...nl.NetlinkRequestData) ([][]byte, error) {
	var answers [][]byte
	call := func() (err error) {
		for range dumpTries {
			req := nl.NewNetlinkRequest(kind, flags)
			req.Sockets = r.sockets
			for _, d := range data {
				req.AddData(d)
			}
			if ns != home {
				req.AddData(nl.NewRtAttr(target, nl.Uint32Attr(uint32(ns))))
			}
			answers, err = req.Execute(unix.NETLINK_ROUTE, reply)
			if !errors.Is(err, netlink.ErrDumpInterrupted) {
				return err
			}
		}
		return err
	}
	if get := kind%4 == 2; get && ns == home { // as RTM_* are numbered
		err := call()
		return answers, err
	}
	err := r.privileged(call)
	return answers, err
}

// linkInfo is what there is to know of a link.
type linkInfo struct {
	ns       int // its namespace
	index    int
	name     string
	mac      net.HardwareAddr
	mtu      int
	queueLen int
	gso      uint32 // the limit of super-frames
	flags    uint32 // IFF_*
	stats    Stats

	parent     int // index of the link that it stands on; 0: none
	parentNS   int // the parent's namespace
	master     int // index of the bridge, bond, team or the like that it is part of, in its own namespace; 0: none
	kind       string
	tag        VLANTag // of a VLAN link
	filters    bool    // a bridge with VLAN filtering
	memberOf   string  // kind of master
	forwarding bool    // a bridge's port that forwards, or the slave that a bond uses
}

// links lists the links of a namespace.
func (r *rtnl) links(ns int) ([]*linkInfo, error) {
	answers, err := r.ask(ns, unix.IFLA_TARGET_NETNSID, unix.RTM_GETLINK, unix.NLM_F_DUMP, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC))
	if err != nil {
		return nil, err
	}
	list := make([]*linkInfo, 0, len(answers))
	for _, m := range answers {
		l, err := parseLink(ns, m)
		if err != nil {
			return nil, err
		}
		list = append(list, l)
	}
	return list, nil
}

func (r *rtnl) linkByIndex(ns, index int) (*linkInfo, error) {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	return r.link(ns, msg)
}

func (r *rtnl) linkByName(ns int, name string) (*linkInfo, error) {
	return r.link(ns, nl.NewIfInfomsg(unix.AF_UNSPEC), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

func (r *rtnl) link(ns int, data ...nl.NetlinkRequestData) (*linkInfo, error) {
	answers, err := r.ask(ns, unix.IFLA_TARGET_NETNSID, unix.RTM_GETLINK, 0, unix.RTM_NEWLINK, data...)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, errNoLink
	case err != nil:
		return nil, err
	case len(answers) == 0:
		return nil, errNoLink
	}
	return parseLink(ns, answers[0])
}

// parseLink reads a message of struct ifinfomsg and attributes (include/uapi/linux/if_link.h).
func parseLink(ns int, m []byte) (*linkInfo, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("netlink: link in %d bytes", len(m))
	}
	msg := nl.DeserializeIfInfomsg(m)
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, fmt.Errorf("netlink: link: %w", err)
	}
	native := nl.NativeEndian()
	l := &linkInfo{ns: ns, parentNS: ns, index: int(msg.Index), flags: msg.Flags}
	for _, a := range attrs {
		v := a.Value
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(v)
		case unix.IFLA_ADDRESS:
			l.mac = net.HardwareAddr(v)
		case unix.IFLA_MTU:
			l.mtu = int(uint32Of(v))
		case unix.IFLA_TXQLEN:
			l.queueLen = int(uint32Of(v))
		case unix.IFLA_GSO_MAX_SIZE:
			l.gso = uint32Of(v)
		case unix.IFLA_LINK:
			l.parent = int(uint32Of(v))
		case unix.IFLA_LINK_NETNSID:
			l.parentNS = int(int32(uint32Of(v)))
		case unix.IFLA_MASTER:
			l.master = int(uint32Of(v))
		case unix.IFLA_LINKINFO:
			l.parseKind(v)
		case unix.IFLA_STATS64:
			if len(v) >= 64 { // struct rtnl_link_stats64
				u := func(i int) uint64 { return native.Uint64(v[8*i:]) }
				l.stats = Stats{RxPackets: u(0), TxPackets: u(1), RxBytes: u(2), TxBytes: u(3),
					RxErrors: u(4), TxErrors: u(5), RxDropped: u(6), TxDropped: u(7)}
			}
		}
	}
	return l, nil
}

// parseKind reads IFLA_LINKINFO.
func (l *linkInfo) parseKind(b []byte) {
	attrs, err := nl.ParseRouteAttrAsMap(b)
	if err != nil {
		return
	}
	l.kind = unix.ByteSliceToString(attrs[nl.IFLA_INFO_KIND].Value)
	l.memberOf = unix.ByteSliceToString(attrs[nl.IFLA_INFO_SLAVE_KIND].Value)
	nested := func(kind uint16) func(uint16) []byte {
		inner, _ := nl.ParseRouteAttrAsMap(attrs[kind].Value)
		return func(a uint16) []byte { return inner[a].Value }
	}
	switch data := nested(nl.IFLA_INFO_DATA); l.kind {
	case "vlan":
		l.tag.ID = uint16(uint32Of(data(nl.IFLA_VLAN_ID)))
		l.tag.Protocol = 0x8100
		if p := data(nl.IFLA_VLAN_PROTOCOL); len(p) == 2 { // in network order
			l.tag.Protocol = uint16(p[0])<<8 | uint16(p[1])
		}
	case "bridge":
		l.filters = uint32Of(data(nl.IFLA_BR_VLAN_FILTERING)) != 0
	}
	switch data := nested(nl.IFLA_INFO_SLAVE_DATA); l.memberOf {
	case "bridge":
		const forwarding = 3 // BR_STATE_FORWARDING of include/uapi/linux/if_bridge.h
		l.forwarding = uint32Of(data(nl.IFLA_BRPORT_STATE)) == forwarding
	case "bond":
		const active = 0 // BOND_STATE_ACTIVE of include/uapi/linux/if_bonding.h
		l.forwarding = uint32Of(data(nl.IFLA_BOND_SLAVE_STATE)) == active
	}
}

// uint32Of reads an attribute of 1, 2 or 4 bytes; one that is missing is 0.
func uint32Of(v []byte) uint32 {
	native := nl.NativeEndian()
	switch len(v) {
	case 1:
		return uint32(v[0])
	case 2:
		return uint32(native.Uint16(v))
	case 4:
		return native.Uint32(v)
	}
	return 0
}

// addresses are the IPv4 and IPv6 addresses of a namespace, by the index of their link, that
// may be announced. IPv6 addresses whose uniqueness is still being checked, or failed the
// check, are left out: they must not be advertised (RFC 4862, section 5.4).
func (r *rtnl) addresses(ns int) (map[int][]net.IP, error) {
	answers, err := r.ask(ns, unix.IFA_TARGET_NETNSID, unix.RTM_GETADDR, unix.NLM_F_DUMP, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return nil, err
	}
	all := map[int][]net.IP{}
	for _, m := range answers {
		if len(m) < unix.SizeofIfAddrmsg {
			return nil, fmt.Errorf("netlink: address in %d bytes", len(m))
		}
		msg := nl.DeserializeIfAddrmsg(m)
		attrs, err := nl.ParseRouteAttrAsMap(m[unix.SizeofIfAddrmsg:])
		if err != nil {
			return nil, fmt.Errorf("netlink: address: %w", err)
		}
		flags := uint32(msg.Flags)
		if f := attrs[unix.IFA_FLAGS].Value; len(f) == 4 {
			flags = uint32Of(f)
		}
		ip := attrs[unix.IFA_LOCAL].Value // IFA_ADDRESS is the peer's then
		if ip == nil {
			ip = attrs[unix.IFA_ADDRESS].Value
		}
		if flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 && (len(ip) == net.IPv4len || len(ip) == net.IPv6len) {
			all[int(msg.Index)] = append(all[int(msg.Index)], net.IP(ip))
		}
	}
	return all, nil
}

// bridgeEntry is an Ethernet address that a link's bridge has learnt, or that the link itself
// takes frames for.
type bridgeEntry struct {
	mac     net.HardwareAddr
	index   int    // of the link
	vlan    uint16 // 0: none
	own     bool   // the link itself takes its frames (NTF_SELF): of a macvlan on it, say
	learned bool   // a bridge sends its frames to the link (NTF_MASTER, and not the link's own address)
}

// bridgeEntries are those of the namespace in which r was opened; the kernel tells of no
// other (rtnl_fdb_dump of net/core/rtnetlink.c).
func (r *rtnl) bridgeEntries() ([]bridgeEntry, error) {
	answers, err := r.ask(home, 0, unix.RTM_GETNEIGH, unix.NLM_F_DUMP, unix.RTM_NEWNEIGH, &netlink.Ndmsg{Family: unix.AF_BRIDGE})
	if err != nil {
		return nil, err
	}
	var list []bridgeEntry
	for _, m := range answers {
		if len(m) < unix.SizeofNdMsg {
			return nil, fmt.Errorf("netlink: neighbour in %d bytes", len(m))
		}
		const stateAt, flagsAt, indexAt = 8, 10, 4 // struct ndmsg
		state := nl.NativeEndian().Uint16(m[stateAt:])
		attrs, err := nl.ParseRouteAttrAsMap(m[unix.SizeofNdMsg:])
		if err != nil {
			return nil, fmt.Errorf("netlink: neighbour: %w", err)
		}
		e := bridgeEntry{
			mac: net.HardwareAddr(attrs[unix.NDA_LLADDR].Value), index: int(nl.NativeEndian().Uint32(m[indexAt:])),
			vlan: uint16(uint32Of(attrs[unix.NDA_VLAN].Value)), own: m[flagsAt]&unix.NTF_SELF != 0,
		}
		e.learned = len(attrs[unix.NDA_MASTER].Value) == 4 && state&unix.NUD_PERMANENT == 0
		if len(e.mac) == 6 && e.mac[0]&1 == 0 {
			list = append(list, e)
		}
	}
	return list, nil
}

// namespaceID is the number of the namespace of which fd is a descriptor. One that has none
// gets one, as the kernel itself does when a link moves there.
func (r *rtnl) namespaceID(fd int) (int, error) {
	for range 2 {
		id, err := r.existingID(fd)
		if err == nil && id >= 0 {
			return id, nil
		}
		if err == nil {
			_, err = r.ask(home, 0, unix.RTM_NEWNSID, unix.NLM_F_ACK, 0, nl.NewRtGenMsg(),
				nl.NewRtAttr(unix.NETNSA_FD, nl.Uint32Attr(uint32(fd))), nl.NewRtAttr(unix.NETNSA_NSID, nl.Uint32Attr(^uint32(0))))
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, fmt.Errorf("number of a network namespace: %w", err)
		}
	}
	return 0, errors.New("number of a network namespace: it has none")
}

// existingID is the number of the namespace of which fd is a descriptor; -1 if it has none.
func (r *rtnl) existingID(fd int) (int, error) {
	answers, err := r.ask(home, 0, unix.RTM_GETNSID, 0, unix.RTM_NEWNSID, nl.NewRtGenMsg(), nl.NewRtAttr(unix.NETNSA_FD, nl.Uint32Attr(uint32(fd))))
	if ids := namespaceIDs(answers); err == nil && len(ids) > 0 {
		return ids[0], nil
	}
	return -1, err
}

// knownNamespaces are the numbers of those that have one.
func (r *rtnl) knownNamespaces() ([]int, error) {
	answers, err := r.ask(home, 0, unix.RTM_GETNSID, unix.NLM_F_DUMP, unix.RTM_NEWNSID, nl.NewRtGenMsg())
	return namespaceIDs(answers), err
}

func namespaceIDs(answers [][]byte) (ids []int) {
	const header = 4 // struct rtgenmsg, padded
	for _, m := range answers {
		if len(m) < header {
			continue
		}
		if attrs, err := nl.ParseRouteAttrAsMap(m[header:]); err == nil {
			if v := attrs[unix.NETNSA_NSID].Value; len(v) == 4 {
				ids = append(ids, int(int32(uint32Of(v))))
			}
		}
	}
	return ids
}

// portVLANs are the VLANs of each bridge port, and of each bridge, in the namespace in which r
// was opened, with their flags.
func (r *rtnl) portVLANs() (map[int]map[uint16]uint16, error) {
	mask := nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(nl.RTEXT_FILTER_BRVLAN))
	answers, err := r.ask(home, 0, unix.RTM_GETLINK, unix.NLM_F_DUMP, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_BRIDGE), mask)
	if err != nil {
		return nil, err
	}
	ports := map[int]map[uint16]uint16{}
	for _, m := range answers {
		if len(m) < unix.SizeofIfInfomsg {
			return nil, fmt.Errorf("netlink: bridge port in %d bytes", len(m))
		}
		attrs, err := nl.ParseRouteAttrAsMap(m[unix.SizeofIfInfomsg:])
		if err != nil {
			return nil, fmt.Errorf("netlink: bridge port: %w", err)
		}
		vlans, err := nl.ParseRouteAttr(attrs[unix.IFLA_AF_SPEC].Value)
		if err != nil {
			return nil, fmt.Errorf("netlink: VLANs of a bridge port: %w", err)
		}
		index := int(nl.DeserializeIfInfomsg(m).Index)
		for _, v := range vlans {
			if v.Attr.Type != nl.IFLA_BRIDGE_VLAN_INFO || len(v.Value) < 4 {
				continue
			}
			if ports[index] == nil {
				ports[index] = map[uint16]uint16{}
			}
			native := nl.NativeEndian() // struct bridge_vlan_info: flags, vid
			ports[index][native.Uint16(v.Value[2:])] = native.Uint16(v.Value)
		}
	}
	return ports, nil
}
