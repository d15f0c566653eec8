package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
)

// In these tests the kernel judges: it takes derived headers on a TAP and delivers
// the frames to sockets, and it segments and sums up itself what is then compared.

// rawTAP is a TAP without offloads, of one queue, whose link has macB, ip4B and ip6B.
type rawTAP struct {
	t     *testing.T
	fd    int
	index int
}

func openRawTAP(t *testing.T) *rawTAP {
	t.Helper()
	enterNamespace(t)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ifr, err := unix.NewIfreq("judge")
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	must(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	must(t, unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, VirtioHeaderSize))
	link, err := netlink.LinkByName("judge")
	must(t, err)
	must(t, netlink.LinkSetHardwareAddr(link, macB))
	must(t, netlink.LinkSetUp(link))
	tap := &rawTAP{t: t, fd: fd, index: link.Attrs().Index}
	for _, a := range []struct{ own, peer net.IP }{{ip4B.To4(), ip4A.To4()}, {ip6B, ip6A}} {
		bits := 8 * len(a.own)
		must(t, netlink.AddrAdd(link, &netlink.Addr{
			IPNet: &net.IPNet{IP: a.own, Mask: net.CIDRMask(bits*3/4, bits)},
			Flags: unix.IFA_F_NODAD,
		}))
		must(t, netlink.NeighSet(&netlink.Neigh{
			LinkIndex: tap.index, State: netlink.NUD_PERMANENT, IP: a.peer, HardwareAddr: macA,
		}))
	}
	// Even without detection of duplicates, an IPv6 address comes to life later.
	own := &net.IPNet{IP: ip6B, Mask: net.CIDRMask(128, 128)}
	await.That(t, "the IPv6 address works", func() bool {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6,
			&netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: own}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
		return err == nil && len(routes) > 0
	})
	return tap
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deliver writes a frame under the header that DeriveRx makes for it, the head
// private and the rest from elsewhere, as the rx queue does.
func (k *rawTAP) deliver(b []byte, in RxOffload) (VirtioHeader, error) {
	k.t.Helper()
	head := bytes.Clone(b[:min(len(b), MaxHeaders)])
	v, _, err := DeriveRx(head, len(b), in)
	if err != nil {
		k.t.Fatalf("%+v: %v", in, err)
	}
	n, err := unix.Writev(k.fd, [][]byte{putHeader(v), head, b[len(head):]})
	if err == nil && n != VirtioHeaderSize+len(b) {
		k.t.Fatalf("%d bytes written of %d", n, len(b))
	}
	return v, err
}

// next reads the next frame that Linux sends with macB to macA.
func (k *rawTAP) next() []byte {
	k.t.Helper()
	buf := make([]byte, 1<<17)
	for {
		waitFor(k.t, k.fd)
		n, err := unix.Read(k.fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		must(k.t, err)
		v, err := ParseVirtioHeader(buf[:n])
		must(k.t, err)
		if b := buf[VirtioHeaderSize:n]; bytes.Equal(b[:6], macA) || bytes.Equal(b[:6], macB) {
			if v.Pending() {
				k.t.Fatalf("a TAP without offloads got %+v", v)
			}
			return bytes.Clone(b)
		}
	}
}

// synAck reads the next SYN+ACK; an older connection may still have something to say.
func (k *rawTAP) synAck() *layers.TCP {
	k.t.Helper()
	for {
		tcp, ok := verify(k.t, k.next()).Layer(layers.LayerTypeTCP).(*layers.TCP)
		if ok && tcp.SYN && tcp.ACK {
			return tcp
		}
	}
}

// packets opens a packet socket on the TAP whose frames have a virtio header of ten
// bytes, the classic one.
func (k *rawTAP) packets() int {
	k.t.Helper()
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(k.t, err)
	k.t.Cleanup(func() { unix.Close(fd) })
	for option, value := range map[int]int{unix.PACKET_IGNORE_OUTGOING: 1, unix.PACKET_VNET_HDR: 1} {
		must(k.t, unix.SetsockoptInt(fd, unix.SOL_PACKET, option, value))
	}
	must(k.t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<22))
	must(k.t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: k.index}))
	return fd
}

const packetHeader = 10

// What Linux makes of a derived header is what was meant: the same checksum, the
// same segments, the bytes unharmed. Tags are counted in csum_start, and Linux takes
// the outer one off.
func TestKernelUnderstandsDerivedHeaders(t *testing.T) {
	k := openRawTAP(t)
	fd := k.packets()
	frames := map[string]frame{
		"super-frame":             {payload: filled(60000), timestamp: true},
		"super-frame over IPv6":   {payload: filled(60000), ipv6: true},
		"tagged super-frame":      {payload: filled(60000), tags: []layers.EthernetType{customerTag}},
		"super-frame of two tags": {payload: filled(60000), ipv6: true, tags: []layers.EthernetType{serviceTag, customerTag}},
		"super-frame with chain":  {payload: filled(60000), ipv6: true, chain: protoHopByHop, extension: hopByHop(protoTCP)},
		"super-frame with option": {payload: filled(60000), options: noOperation},
		"largest super-frame":     {payload: filled(65535 - 40), tags: []layers.EthernetType{customerTag}},
		"validated":               {payload: filled(1400), proto: udp, ipv6: true},
	}
	for name, f := range knownFrames {
		frames[name] = f
	}
	buf := make([]byte, 1<<17)
	for name, f := range frames {
		wishes := []RxOffload{{}, {DataValidated: true}, {CsumBlank: true, DataValidated: true}}
		if len(f.payload) > 20000 {
			typ := uint8(GSOTCPv4)
			if f.ipv6 {
				typ = GSOTCPv6
			}
			wishes = []RxOffload{{CsumBlank: true, GSOType: typ, GSOSize: 1400}, {GSOType: typ, GSOSize: minGSOSize}}
		}
		for _, in := range wishes {
			b := f.blank(t)
			if !in.CsumBlank {
				b = f.build(t)
			}
			v, err := k.deliver(b, in)
			if err != nil {
				t.Errorf("%s, %+v as %+v: %v", name, in, v, err)
				continue
			}
			got, seen := receivePacket(t, fd, buf)
			want := v
			got.HdrLen, want.HdrLen = 0, 0
			whole := f.build(t)
			if len(f.tags) > 0 {
				whole = append(whole[:12], whole[12+tagSize:]...)
				if v.Flags != 0 {
					want.CsumStart -= tagSize
				}
			}
			if got != want {
				t.Errorf("%s, %+v: Linux has %+v, want %+v", name, in, got, want)
				continue
			}
			if got.Flags&VirtioNeedsCsum != 0 {
				must(t, FinishChecksum(seen[:len(seen)-len(f.padding)], int(got.CsumStart), int(got.CsumOffset)))
			}
			if !bytes.Equal(seen, whole) {
				t.Errorf("%s, %+v: the frame came out as another:\n% x", name, in, seen[:min(len(seen), 100)])
			}
		}
	}
}

// The kernel segments and sums up in software for a link that does neither. Its
// frames and ours must be the same bytes.
func TestSegmentAndFinishChecksumEqualTheKernels(t *testing.T) {
	k := openRawTAP(t)
	fd := k.packets()
	tag := []layers.EthernetType{customerTag}
	all := uint8(tcpFIN | tcpPSH | tcpCWR)
	super := map[string]frame{
		"IPv4":                {payload: filled(20000), timestamp: true, flags: all, id: 0xfffe, seq: 0xfffff000},
		"IPv6":                {payload: filled(20000), flags: all, ipv6: true},
		"tag":                 {payload: filled(20000), tags: tag, timestamp: true, flags: all},
		"tag over IPv6":       {payload: filled(20000), tags: tag, ipv6: true, flags: tcpPSH},
		"two tags":            {payload: filled(20000), tags: []layers.EthernetType{serviceTag, customerTag}},
		"options":             {payload: filled(20000), options: noOperation},
		"source route":        {payload: filled(20000), options: sourceRoute},
		"extension headers":   {payload: filled(20000), ipv6: true, chain: protoHopByHop, extension: chain(hopByHop(protoDestOpts), hopByHop(protoTCP))},
		"largest":             {payload: filled(65535 - 40), flags: tcpPSH},
		"largest with a tag":  {payload: filled(65535 - 40), tags: tag},
		"largest of IPv6":     {payload: filled(65535 - 20), ipv6: true, tags: tag},
		"exactly two":         {payload: filled(2800), flags: tcpPSH},
		"two and one byte":    {payload: filled(2801), flags: tcpPSH},
		"one, nothing to cut": {payload: filled(1400), flags: tcpPSH},
	}
	for name, f := range super {
		b := f.blank(t)
		v := VirtioHeader{
			Flags: VirtioNeedsCsum, GSOType: GSOTCPv4, GSOSize: 1400,
			HdrLen: uint16(f.l4At() + f.l4Header()), CsumStart: uint16(f.l4At()), CsumOffset: tcpChecksum,
		}
		if f.ipv6 {
			v.GSOType = GSOTCPv6
		}
		sendPacket(t, fd, v, b)
		for i, want := range segments(t, b, 1400) {
			if got := k.next(); !bytes.Equal(got, want) {
				t.Fatalf("%s, segment %d:\nkernel % x\nours   % x", name, i, got[:min(len(got), 90)], want[:min(len(want), 90)])
			}
		}
	}
	for name, f := range knownFrames {
		b := f.blank(t)
		v := VirtioHeader{Flags: VirtioNeedsCsum, CsumStart: uint16(f.l4At()), CsumOffset: uint16(f.fieldAt() - f.l4At())}
		sendPacket(t, fd, v, b)
		must(t, FinishChecksum(b, int(v.CsumStart), int(v.CsumOffset)))
		if got := k.next(); !bytes.Equal(got, b) {
			t.Errorf("%s:\nkernel % x\nours   % x", name, got, b)
		}
	}
}

func sendPacket(t *testing.T, fd int, v VirtioHeader, b []byte) {
	t.Helper()
	if _, err := unix.SendmsgBuffers(fd, [][]byte{putHeader(v)[:packetHeader], b}, nil, nil, 0); err != nil {
		t.Fatalf("send %d bytes under %+v: %v", len(b), v, err)
	}
}

// receivePacket reads the next frame from macA at a packet socket.
func receivePacket(t *testing.T, fd int, buf []byte) (VirtioHeader, []byte) {
	t.Helper()
	for {
		waitFor(t, fd)
		n, err := unix.Read(fd, buf)
		must(t, err)
		b := buf[packetHeader:n]
		if !bytes.Equal(b[6:12], macA) {
			continue // Linux talks to itself
		}
		v, err := ParseVirtioHeader(append(bytes.Clone(buf[:packetHeader]), 0, 0))
		must(t, err)
		return v, b
	}
}

// listen opens a socket on the TAP's address, IPv6 or IPv4.
func listen(t *testing.T, ipv6 bool, kind int) int {
	t.Helper()
	var to unix.Sockaddr = &unix.SockaddrInet4{Port: portB, Addr: [4]byte(ip4B.To4())}
	family := unix.AF_INET
	if ipv6 {
		to, family = &unix.SockaddrInet6{Port: portB, Addr: [16]byte(ip6B)}, unix.AF_INET6
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.Bind(fd, to))
	if kind == unix.SOCK_STREAM {
		must(t, unix.Listen(fd, 1))
	}
	return fd
}

// A TAP hands a frame to the stack before write returns, so what is not there then
// was thrown away.
func TestSocketsAcceptDerivedChecksumsAndNoWrongOnes(t *testing.T) {
	k := openRawTAP(t)
	wrong := func(f frame, b []byte) []byte {
		binary.BigEndian.PutUint16(b[f.fieldAt():], 0xdead)
		return b
	}
	none := func(f frame, b []byte) []byte {
		binary.BigEndian.PutUint16(b[f.fieldAt():], 0)
		return b
	}
	keep := func(_ frame, b []byte) []byte { return b }
	for _, ipv6 := range []bool{false, true} {
		fd := listen(t, ipv6, unix.SOCK_DGRAM)
		cases := []struct {
			name   string
			size   int
			in     RxOffload
			change func(f frame, b []byte) []byte
			blank  bool
			chain  bool // IPv6 extension headers in front
			lost   bool
		}{
			{name: "complete", size: 100, change: keep},
			{name: "wrong", size: 100, change: wrong, lost: true},
			{name: "blank", size: 100, in: RxOffload{CsumBlank: true}, change: keep, blank: true},
			{name: "blank and wrong", size: 101, in: RxOffload{CsumBlank: true, DataValidated: true}, change: wrong},
			{name: "blank and zero", size: 100, in: RxOffload{CsumBlank: true}, change: none},
			{name: "blank behind a chain", size: 100, in: RxOffload{CsumBlank: true}, change: keep, blank: true, chain: true},
			{name: "validated", size: 1400, in: RxOffload{DataValidated: true}, change: keep},
			{name: "validated, not to be verified", size: 1400, in: RxOffload{DataValidated: true}, change: wrong},
			{name: "validated but verified, being small", size: 20, in: RxOffload{DataValidated: true}, change: wrong, lost: true},
			{name: "no checksum", size: 1400, in: RxOffload{DataValidated: true}, change: none, lost: ipv6},
		}
		for _, c := range cases {
			f := frame{proto: udp, ipv6: ipv6, payload: filled(c.size)}
			if c.chain && ipv6 {
				f.chain, f.extension = protoHopByHop, chain(hopByHop(protoDestOpts), hopByHop(protoUDP))
			}
			b := f.build(t)
			if c.blank {
				b = f.blank(t)
			}
			if _, err := k.deliver(c.change(f, b), c.in); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			got := make([]byte, 2000)
			n, err := unix.Read(fd, got)
			switch {
			case c.lost && !errors.Is(err, unix.EAGAIN):
				t.Errorf("IPv6 %t, %s: delivered (%v)", ipv6, c.name, err)
			case !c.lost && (err != nil || !bytes.Equal(got[:n], f.payload)):
				t.Errorf("IPv6 %t, %s: %d bytes, %v", ipv6, c.name, n, err)
			}
		}
	}
}

func TestTCPSocketReadsDerivedSuperFrames(t *testing.T) {
	k := openRawTAP(t)
	for _, ipv6 := range []bool{false, true} {
		listener := listen(t, ipv6, unix.SOCK_STREAM)
		syn := frame{ipv6: ipv6, flags: tcpSYN, seq: 1000}
		_, err := k.deliver(syn.blank(t), RxOffload{CsumBlank: true})
		must(t, err)
		answer := k.synAck()
		if answer.Ack != syn.seq+1 {
			t.Fatalf("IPv6 %t: answer to SYN %d is ACK %d", ipv6, syn.seq, answer.Ack)
		}
		data := filled(40000)
		in := RxOffload{CsumBlank: true, DataValidated: true, GSOType: GSOTCPv4, GSOSize: 1448}
		if ipv6 {
			in.GSOType = GSOTCPv6
		}
		first := frame{ipv6: ipv6, seq: 1001, ack: answer.Seq + 1, payload: data[:25000], flags: tcpPSH}
		_, err = k.deliver(first.blank(t), in)
		must(t, err)
		// The second one needs every repair: no csum_blank, and the IPv4 checksum left
		// to a card.
		second := first
		second.seq, second.payload, second.flags = 26001, data[25000:], tcpPSH|tcpFIN
		b := second.build(t)
		if !ipv6 {
			b[EthernetHeader+10], b[EthernetHeader+11] = 0, 0
		}
		in.CsumBlank = false
		_, err = k.deliver(b, in)
		must(t, err)

		waitFor(t, listener)
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		must(t, err)
		var got []byte
		for buf := make([]byte, 1<<16); ; {
			waitFor(t, fd)
			n, err := unix.Read(fd, buf)
			must(t, err)
			if n == 0 {
				break
			}
			got = append(got, buf[:n]...)
		}
		unix.Close(fd)
		if !bytes.Equal(got, data) {
			t.Errorf("IPv6 %t: %d bytes came through of %d, or others", ipv6, len(got), len(data))
		}
	}
}
