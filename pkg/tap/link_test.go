package tap

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestSettingsReachTheLink(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{Name: "xnf0"})
	for _, up := range []bool{true, false} { // each setting up and down
		for _, mtu := range []int{MinMTU, 1500, MaxMTU} {
			if err := d.SetMTU(mtu); err != nil || linkNamed(t, "xnf0").MTU != mtu {
				t.Errorf("MTU %d, want %d: %v", linkNamed(t, "xnf0").MTU, mtu, err)
			}
		}
		for _, mac := range []net.HardwareAddr{testMAC, {0, 0x16, 0x3e, 1, 2, 3}} {
			if err := d.SetMAC(mac); err != nil || linkNamed(t, "xnf0").HardwareAddr.String() != mac.String() {
				t.Errorf("MAC %v, want %v: %v", linkNamed(t, "xnf0").HardwareAddr, mac, err)
			}
		}
		for _, frames := range []int{1, 500} {
			if err := d.SetTxQueueLen(frames); err != nil || linkNamed(t, "xnf0").TxQLen != frames {
				t.Errorf("queue of %d, want %d: %v", linkNamed(t, "xnf0").TxQLen, frames, err)
			}
		}
		for _, size := range []int{16384, MaxGSOSize} {
			err := d.SetGSOMaxSize(size)
			if a := linkNamed(t, "xnf0"); err != nil || int(a.GSOMaxSize) != size || int(a.GSOIPv4MaxSize) != size {
				t.Errorf("GSO sizes %d and %d, want %d: %v", a.GSOMaxSize, a.GSOIPv4MaxSize, size, err)
			}
		}
		if err := d.SetUp(up); err != nil || (linkNamed(t, "xnf0").RawFlags&unix.IFF_UP != 0) != up {
			t.Errorf("up is not %t: %v", up, err)
		}
	}
}

func TestSettingsOutOfRangeAreRefused(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{Name: "xnf0", MAC: testMAC})
	before := *linkNamed(t, "xnf0")
	for what, err := range map[string]error{
		"MTU 0": d.SetMTU(0), "MTU 67": d.SetMTU(MinMTU - 1), "MTU 65518": d.SetMTU(MaxMTU + 1), // the kernel takes this one
		"GSO 0": d.SetGSOMaxSize(0), "GSO 65533": d.SetGSOMaxSize(MaxGSOSize + 1),
		"queue 0": d.SetTxQueueLen(0), "queue 65537": d.SetTxQueueLen(1<<16 + 1),
		"no MAC": d.SetMAC(nil), "zero MAC": d.SetMAC(make([]byte, 6)), "multicast MAC": d.SetMAC([]byte{3, 0, 0, 0, 0, 1}),
		"MAC of 8 bytes": d.SetMAC(make([]byte, 8)),
	} {
		if !errors.Is(err, ErrSetting) {
			t.Errorf("%s: %v", what, err)
		}
	}
	now := linkNamed(t, "xnf0")
	if now.MTU != before.MTU || now.TxQLen != before.TxQLen || now.GSOMaxSize != before.GSOMaxSize ||
		now.HardwareAddr.String() != before.HardwareAddr.String() {
		t.Errorf("a refused setting changed the link: %+v", now)
	}
}

// BIG TCP would make IPv6 packets of more than 64 KiB, which no Xen ring carries.
func TestBigTCPCannotBeSwitchedOn(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	link, err := netlink.LinkByIndex(d.Index())
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetGSOMaxSize(link, 1<<17); err == nil {
		t.Error("the kernel took a GSO size of 128 KiB")
	}
}

func TestStatsCountBothDirectionsAndDrops(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{TxQueueLen: 10}, 1)
	socket := newPacketSocket(t, d.Index())
	w := newWriter(t, queues[0], 4)
	res := make([]int32, 3)
	if err := w.Write([][]unix.Iovec{gather(testFrame(100, 0)), gather(testFrame(100, 1)), gather(testFrame(100, 2))}, res); err != nil {
		t.Fatal(err)
	}
	for i := range 15 {
		socket.send(testFrame(200, i)) // five more than the queue holds
	}
	bufs, n := readBuffers(16)
	if got, err := newReader(t, queues[0], 16).Read(bufs, n); got != 10 || err != nil {
		t.Fatalf("read %d frames: %v", got, err)
	}
	s, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	want := Stats{RxPackets: 3, RxBytes: 3 * (100 - EthernetHeader), TxPackets: 10, TxBytes: 10 * 200, TxDropped: 5}
	// A TAP counts received bytes with the Ethernet header, older kernels without.
	if s.RxBytes == 300 {
		want.RxBytes = 300
	}
	s.RxDropped = 0 // of the stack, for a protocol nobody speaks
	if s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
}

// udpVirtioHeader is the header of a UDP datagram that Linux sends through the TAP.
func udpVirtioHeader(t *testing.T, d *Device, r *Reader) VirtioHeader {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, []byte("payload"), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 0, 0, 2}}); err != nil {
		t.Fatal(err)
	}
	bufs, n := readBuffers(1)
	if got, err := r.Read(bufs, n); got != 1 || err != nil {
		t.Fatalf("read %d frames: %v", got, err)
	}
	h, err := ParseVirtioHeader(bufs[0])
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func addAddress(t *testing.T, d *Device) {
	t.Helper()
	link, err := netlink.LinkByIndex(d.Index())
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := netlink.ParseAddr("10.0.0.1/24")
	if err := netlink.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	neighbour := &netlink.Neigh{LinkIndex: d.Index(), State: netlink.NUD_PERMANENT,
		IP: net.IPv4(10, 0, 0, 2), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 2}}
	if err := netlink.NeighSet(neighbour); err != nil {
		t.Fatal(err)
	}
}

func TestChecksumsAreLeftToUsOnlyWhenWeOffer(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{}, 1)
	addAddress(t, d)
	r := newReader(t, queues[0], 1)
	if h := udpVirtioHeader(t, d, r); h.Flags&VirtioNeedsCsum != 0 {
		t.Errorf("nothing offered: %+v", h)
	}
	if err := d.SetOffload(OffloadCsum); err != nil {
		t.Fatal(err)
	}
	h := udpVirtioHeader(t, d, r)
	if h.Flags&VirtioNeedsCsum == 0 || h.CsumStart != EthernetHeader+20 || h.CsumOffset != 6 {
		t.Errorf("checksums offered: %+v", h)
	}
	if err := d.SetOffload(0); err != nil {
		t.Fatal(err)
	}
	if h := udpVirtioHeader(t, d, r); h.Flags&VirtioNeedsCsum != 0 {
		t.Errorf("offer withdrawn: %+v", h)
	}
}

func TestOffloadsThatCannotBeHadAreRefused(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	if got, want := d.ProbeOffload(), OffloadCsum|OffloadTSO4|OffloadTSO6; got != want {
		t.Errorf("the kernel accepts %#x, want %#x", got, want)
	}
	for _, o := range []Offload{OffloadTSO4, OffloadTSO6, OffloadTSO4 | OffloadTSO6, unix.TUN_F_TSO_ECN | OffloadCsum,
		unix.TUN_F_USO4 | unix.TUN_F_USO6 | OffloadCsum, unix.TUN_F_UFO | OffloadCsum} {
		if err := d.SetOffload(o); !errors.Is(err, ErrOffload) {
			t.Errorf("%#x: %v", uint32(o), err)
		}
	}
	for _, o := range []Offload{0, OffloadCsum, OffloadCsum | OffloadTSO4, OffloadCsum | OffloadTSO6, d.ProbeOffload()} {
		if err := d.SetOffload(o); err != nil {
			t.Errorf("%#x: %v", uint32(o), err)
		}
	}
}

// tcpSuperFrame is an IPv4 TCP frame of the given length, and the virtio header (10
// bytes) that asks for segments of 1448 bytes.
func tcpSuperFrame(length int) (header, frame []byte) {
	frame = make([]byte, length)
	copy(frame, testMAC)
	copy(frame[6:], []byte{2, 0, 0, 0, 0, 2})
	binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IP)
	ip := frame[EthernetHeader:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[2:], uint16(min(len(ip), 65535)))
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	ip[20+12], ip[20+13] = 5<<4, 0x10
	header = make([]byte, 10)
	header[0], header[1] = VirtioNeedsCsum, GSOTCPv4
	for at, v := range map[int]uint16{2: EthernetHeader + 40, 4: 1448, 6: EthernetHeader + 20, 8: 16} {
		binary.NativeEndian.PutUint16(header[at:], v)
	}
	return header, frame
}

// What is longer than a ring can carry must come in segments, a tag included.
func TestNoFrameIsLongerThanARingCarries(t *testing.T) {
	for _, tag := range []int{0, 4} {
		t.Run(map[int]string{0: "untagged", 4: "tagged"}[tag], func(t *testing.T) {
			enterNamespace(t)
			d, queues := liveDevice(t, Config{}, 1)
			if err := d.SetOffload(d.ProbeOffload()); err != nil {
				t.Fatal(err)
			}
			if tag > 0 {
				tagOutgoing(t, d.Index())
			}
			socket := newPacketSocket(t, d.Index())
			r := newReader(t, queues[0], 64)
			bufs, n := readBuffers(64)
			for _, length := range []int{MaxGSOSize - 2, MaxGSOSize - 1, MaxGSOSize, MaxGSOSize + 1, 65535, 65549} {
				socket.sendHeader(tcpSuperFrame(length))
				got, err := r.Read(bufs, n)
				if err != nil {
					t.Fatal(err)
				}
				if whole := length < MaxGSOSize; (got == 1) != whole || got == 0 {
					t.Errorf("super-frame of %d bytes came in %d frames", length, got)
				}
				for i := range got {
					if frame := n[i] - VirtioHeaderSize; frame > MaxFrame || got == 1 && frame != length+tag {
						t.Errorf("super-frame of %d bytes: %d frames, one of %d bytes", length, got, frame)
					}
				}
			}
		})
	}
}

// Whether Linux looks at gso_max_size when it segments is what the limit rests on.
func TestASmallerGSOSizeIsKept(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{}, 1)
	if err := errors.Join(d.SetOffload(d.ProbeOffload()), d.SetGSOMaxSize(20000)); err != nil {
		t.Fatal(err)
	}
	socket := newPacketSocket(t, d.Index())
	r := newReader(t, queues[0], 64)
	bufs, n := readBuffers(64)
	for length, whole := range map[int]bool{19999: true, 20000: false} {
		socket.sendHeader(tcpSuperFrame(length))
		if got, err := r.Read(bufs, n); err != nil || (got == 1) != whole {
			t.Errorf("super-frame of %d bytes came in %d frames: %v", length, got, err)
		}
	}
}
