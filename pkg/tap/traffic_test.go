package tap

import (
	"encoding/binary"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// testEtherType marks the tests' frames (IEEE 802 local experimental 1).
const testEtherType = 0x88b5

// testMAC is the TAP's own address in these tests.
var testMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// noIPv6 keeps Linux from sending solicitations of its own through the test's links.
func noIPv6(t testing.TB) {
	t.Helper()
	// Under /proc/sys/net is the namespace of the thread that opens the file.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

// engines are the two ways to carry frames; tests run with both.
var engines = map[string]Config{"uring": {}, "plain": {NoUring: true}}

// liveDevice is up, with the carrier on and n queues.
func liveDevice(t testing.TB, cfg Config, n int) (*Device, []*Queue) {
	t.Helper()
	noIPv6(t)
	cfg.Name, cfg.MAC = "xnf0", testMAC
	d := newDevice(t, cfg)
	queues, err := d.SetQueues(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{d.SetCarrier(true), d.SetUp(true)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if cfg.NoUring == (d.UringError() == nil) {
		t.Fatalf("NoUring %t, but io_uring error is %v", cfg.NoUring, d.UringError())
	}
	return d, queues
}

// packetSocket is an AF_PACKET socket on a link: Linux's side of the TAP.
type packetSocket struct {
	t       testing.TB
	fd      int
	ifindex int
}

// newPacketSocket receives frames of testEtherType, but not its own.
func newPacketSocket(t testing.TB, ifindex int) *packetSocket {
	t.Helper()
	proto := testEtherType<<8&0xff00 | testEtherType>>8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	for option, value := range map[int]int{unix.PACKET_IGNORE_OUTGOING: 1, unix.PACKET_VNET_HDR: 1} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, value); err != nil {
			t.Fatal(err)
		}
	}
	for _, option := range []int{unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(proto), Ifindex: ifindex}); err != nil {
		t.Fatal(err)
	}
	return &packetSocket{t: t, fd: fd, ifindex: ifindex}
}

// send lets Linux send a frame through the link. It is in the TAP's queue on return.
func (p *packetSocket) send(frame []byte) {
	p.t.Helper()
	p.sendHeader(make([]byte, 10), frame)
}

// sendHeader is send with a virtio header (10 bytes here).
func (p *packetSocket) sendHeader(header, frame []byte) {
	p.t.Helper()
	// Linux segments by the protocol that it is told, in network byte order.
	to := &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(frame[12:]), Ifindex: p.ifindex}
	if _, err := unix.SendmsgBuffers(p.fd, [][]byte{header, frame}, nil, to, 0); err != nil {
		p.t.Fatalf("send %d bytes: %v", len(frame), err)
	}
}

// receive waits for a frame that Linux received.
func (p *packetSocket) receive() []byte {
	p.t.Helper()
	waitFor(p.t, p.fd)
	buf := make([]byte, 1<<17)
	n, err := unix.Read(p.fd, buf)
	if err != nil {
		p.t.Fatal(err)
	}
	return buf[10:n]
}

// waitFor waits until fd is readable.
func waitFor(t testing.TB, fd int) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 5000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("nothing to read within 5 seconds: %v", err)
		}
		return
	}
}

// testFrame is a frame of the given length, with the sequence number in its payload
// when there is room, and bytes that depend on both.
func testFrame(length, seq int) []byte {
	f := make([]byte, length)
	for i := range f {
		f[i] = byte(i + seq)
	}
	copy(f, testMAC)
	copy(f[6:], []byte{2, 0, 0, 0, 0, 2})
	binary.BigEndian.PutUint16(f[12:], testEtherType)
	if length >= 18 {
		binary.BigEndian.PutUint32(f[14:], uint32(seq))
	}
	return f
}

// frameSeq is the sequence number of a frame of at least 18 bytes.
func frameSeq(frame []byte) int { return int(binary.BigEndian.Uint32(frame[14:])) }

// readBuffers are n buffers with room for any frame, and the lengths to go with them.
func readBuffers(n int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, ReadRoom)
	}
	return bufs, make([]int, n)
}

// gather cuts a frame, behind an empty virtio header, into pieces.
func gather(frame []byte, cuts ...int) []unix.Iovec {
	b := append(make([]byte, VirtioHeaderSize), frame...)
	var pieces []unix.Iovec
	at := 0
	for _, cut := range append(cuts, len(b)) {
		if cut = min(cut, len(b)); cut > at {
			pieces = append(pieces, unix.Iovec{Base: &b[at]})
			pieces[len(pieces)-1].SetLen(cut - at)
			at = cut
		}
	}
	return pieces
}
