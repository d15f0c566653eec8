package netfront

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// These are the rows of docs/on-the-tap.md.

// experimental is an EtherType that no kernel answers (IEEE Std 802, local experimental).
const experimental = 0x88b5

// frameOf is a frame of that type.
func frameOf(dst, src net.HardwareAddr) []byte {
	return append(ethernet(dst, src, experimental), make([]byte, 86)...)
}

// newOnTop is a connected world, and the links of its namespace.
func newOnTop(t *testing.T) (*world, *netlink.Handle) {
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}})
	w.connected(1)
	return w, here(t)
}

// addOn makes a link, and sets it up, or skips the test where the kernel has none of its kind.
func addOn(t *testing.T, links *netlink.Handle, link netlink.Link) {
	t.Helper()
	err := links.LinkAdd(link)
	if err != nil && strings.Contains(err.Error(), "not supported") {
		needs.LeaveOut(t, "a kernel with links of kind "+link.Type())
	}
	if err == nil {
		err = links.LinkSetUp(link)
	}
	if err != nil {
		t.Fatalf("make a link of kind %s: %v", link.Type(), err)
	}
}

func named(name string, parent netlink.Link) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	if parent != nil {
		a.ParentIndex = parent.Attrs().Index
	}
	return a
}

// wantCarried wants frames to pass between the backend and a link over the TAP, which crosses
// it as wrap makes it, before and after a new connection.
func (w *world) wantCarried(upper string, wrap func(frame []byte, out bool) []byte) {
	w.t.Helper()
	link, err := netlink.LinkByName(upper)
	w.check(err)
	mac := link.Attrs().HardwareAddr
	on := &world{t: w.t, dev: w.dev}
	on.sock, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	w.check(err)
	defer unix.Close(on.sock)
	w.check(unix.Bind(on.sock, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: link.Attrs().Index}))
	w.check(unix.SetsockoptInt(on.sock, unix.SOL_PACKET, 15 /* PACKET_VNET_HDR */, 1))
	for i := range 2 {
		if i > 0 {
			w.check(w.vif.Rebind(w.deadline()))
			w.connected(uint64(i + 1))
		}
		w.eventually("the carrier of "+upper, func() bool {
			l, err := netlink.LinkByName(upper)
			w.check(err)
			return l.Attrs().RawFlags&unix.IFF_RUNNING != 0
		})
		w.awaitForwarding()
		out := frameOf(markPrefix, mac)
		on.send(tap.VirtioHeader{}, out)
		want := wrap(out, true)
		for !bytes.Equal(w.fromGuest(nil).Frame, want) {
		}
		in := frameOf(mac, markPrefix)
		w.check(w.port.Send(0, tap.VirtioHeader{}, wrap(in, false)))
		if _, got := on.receive(in[:14]); !bytes.Equal(got, in) {
			w.t.Fatalf("%x came in, want %x", got, in)
		}
	}
}

// awaitForwarding waits until the ports of bridges and bonds let frames through: Linux enables
// them some time after they have a carrier, while it holds the lock of all links.
func (w *world) awaitForwarding() {
	w.t.Helper()
	w.eventually("the ports", func() bool {
		list, err := netlink.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			return false
		}
		w.check(err)
		for _, l := range list {
			if l.Attrs().MasterIndex != 0 && l.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
				return false
			}
		}
		return true
	})
	w.check(netlink.LinkSetUp(w.link())) // takes that lock, and changes nothing
}

func asItIs(frame []byte, _ bool) []byte { return frame }

func TestBridgeOnTheTAP(t *testing.T) {
	w, links := newOnTop(t)
	bridge := &netlink.Bridge{LinkAttrs: named("br0", nil)}
	addOn(t, links, bridge)
	addOn(t, links, &netlink.Veth{LinkAttrs: named("port", nil), PeerName: "peer"})
	for _, name := range []string{"port", "peer"} {
		l, err := links.LinkByName(name)
		w.check(errors.Join(err, links.LinkSetUp(l)))
		if name == "port" {
			w.check(links.LinkSetMaster(l, bridge))
		}
	}
	w.check(links.LinkSetMaster(w.link(), bridge))
	w.wantCarried("peer", asItIs)
}

func TestBondOnTheTAP(t *testing.T) {
	w, links := newOnTop(t)
	bond := netlink.NewLinkBond(named("bond0", nil))
	bond.Mode, bond.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 10
	addOn(t, links, bond)
	w.check(links.LinkSetDown(w.link()))
	w.check(links.LinkSetMaster(w.link(), bond))
	w.check(links.LinkSetUp(w.link()))
	w.wantCarried("bond0", asItIs)
}

func TestMacvlanOnTheTAP(t *testing.T) {
	w, links := newOnTop(t)
	addOn(t, links, &netlink.Macvlan{LinkAttrs: named("mv0", w.link()), Mode: netlink.MACVLAN_MODE_BRIDGE})
	w.wantCarried("mv0", asItIs)
}

func TestMacvtapOnTheTAP(t *testing.T) {
	w, links := newOnTop(t)
	addOn(t, links, &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: named("mt0", w.link()), Mode: netlink.MACVLAN_MODE_BRIDGE}})
	link, err := links.LinkByName("mt0")
	w.check(err)
	// Who reads it is a virtual machine: what it sends is what counts here.
	out := frameOf(markPrefix, link.Attrs().HardwareAddr)
	w.sendOn(link, out)
	for !bytes.Equal(w.fromGuest(nil).Frame, out) {
	}
}

// sendOn sends a frame on another link than the TAP.
func (w *world) sendOn(link netlink.Link, frame []byte) {
	w.t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	w.check(err)
	defer unix.Close(fd)
	w.check(unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Halen: 6}))
}

func TestIpvlanOnTheTAP(t *testing.T) {
	w, links := newOnTop(t)
	addOn(t, links, &netlink.IPVlan{LinkAttrs: named("iv0", w.link()), Mode: netlink.IPVLAN_MODE_L2})
	link, err := links.LinkByName("iv0")
	w.check(err)
	giveAddress(t, links, link, "10.9.8.7/24")
	w.awaitFrames(announceRounds, gratuitousARP(guestMAC, net.IP{10, 9, 8, 7}))
}

func TestVLANOnTheTAP(t *testing.T) {
	w, links := newOnTop(t)
	addOn(t, links, &netlink.Vlan{LinkAttrs: named("xnf0.5", w.link()), VlanId: 5})
	w.wantCarried("xnf0.5", func(frame []byte, _ bool) []byte {
		return withTags(bytes.Clone(frame), []tap.VLANTag{{Protocol: 0x8100, ID: 5}})
	})
}

func TestVXLANOnTheTAP(t *testing.T) {
	w, links := newOnTop(t)
	giveAddress(t, links, w.link(), "10.9.8.7/24")
	peer := net.IP{10, 9, 8, 1}
	w.check(links.NeighSet(&netlink.Neigh{LinkIndex: w.link().Attrs().Index, State: netlink.NUD_PERMANENT, IP: peer, HardwareAddr: otherMAC}))
	addOn(t, links, &netlink.Vxlan{LinkAttrs: named("vx0", nil), VtepDevIndex: w.link().Attrs().Index, VxlanId: 7, Port: 4789, Group: peer, Learning: true})
	link, err := links.LinkByName("vx0")
	w.check(err)
	out := frameOf(markPrefix, link.Attrs().HardwareAddr)
	w.sendOn(link, out)
	const headers = 14 + 20 + 8 + 8
	for {
		f := w.fromGuest(append(append([]byte{}, otherMAC...), guestMAC...)).Frame
		if len(f) == headers+len(out) && binary.BigEndian.Uint16(f[36:]) == 4789 && bytes.Equal(f[headers:], out) {
			break
		}
	}
}

func TestGenericXDPOnTheTAP(t *testing.T) {
	w, _ := newOnTop(t)
	program := xdpPass(t)
	defer unix.Close(program)
	w.check(netlink.LinkSetXdpFdWithFlags(w.link(), program, 1<<1 /* XDP_FLAGS_SKB_MODE */))
	w.roundTrip(1514)
	w.check(w.vif.Rebind(w.deadline()))
	w.connected(2)
	w.roundTrip(1514)
	if x := w.link().Attrs().Xdp; x == nil || !x.Attached {
		t.Errorf("the program is gone: %+v", x)
	}
}

// xdpPass loads a program that lets every frame pass.
func xdpPass(t *testing.T) int {
	t.Helper()
	code := []uint64{0x2_0000_00b7, 0x95} // r0 = XDP_PASS; exit
	license := []byte("BSD\x00")
	attr := struct { // union bpf_attr of BPF_PROG_LOAD
		kind, count   uint32
		code, license unsafe.Pointer
		_             [128]byte
	}{kind: 6 /* BPF_PROG_TYPE_XDP */, count: uint32(len(code)), code: unsafe.Pointer(&code[0]), license: unsafe.Pointer(&license[0])}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, 5 /* BPF_PROG_LOAD */, uintptr(unsafe.Pointer(&attr)), 48)
	if errno == unix.ENOSYS || errno == unix.EPERM {
		needs.LeaveOut(t, "a kernel that loads programs")
	}
	if errno != 0 {
		t.Fatalf("load a program: %v", errno)
	}
	return int(fd)
}

func TestTrafficControlOnTheTAP(t *testing.T) {
	w, links := newOnTop(t)
	attrs := netlink.QdiscAttrs{LinkIndex: w.link().Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	if err := links.QdiscReplace(&netlink.Tbf{QdiscAttrs: attrs, Rate: 1 << 30, Limit: 1 << 24, Buffer: 1 << 24}); errors.Is(err, unix.ENOENT) {
		needs.LeaveOut(t, "a kernel with tbf")
	} else {
		w.check(err)
	}
	w.roundTrip(1514)
	w.check(w.vif.Rebind(w.deadline()))
	w.connected(2)
	w.roundTrip(1514)
	list, err := links.QdiscList(w.link())
	w.check(err)
	if len(list) == 0 || list[0].Type() != "tbf" {
		t.Errorf("it is gone: %v", list)
	}
}
