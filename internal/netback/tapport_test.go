package netback

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/testspace"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// ownNamespace puts the test into a network namespace whose links send no frames of their own.
func ownNamespace(t testing.TB) {
	t.Helper()
	testspace.Enter(t)
	// Links must not send frames of their own (router solicitations, MLD).
	for _, kind := range []string{"all", "default"} {
		path := "/proc/sys/net/ipv6/conf/" + kind + "/disable_ipv6"
		if err := os.WriteFile(path, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// wire is a packet socket on the backend's TAP: the far side of the vif. Frames have
// a virtio header of 10 bytes (PACKET_VNET_HDR).
type wire struct {
	t  *testing.T
	fd int
}

const wireHeader = 10

func openWire(t *testing.T, index int) *wire {
	t.Helper()
	all := int(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	w := &wire{t: t, fd: fd}
	w.must(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	w.must(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	// A new carrier is known to the link at once, but to its qdisc only later.
	w.must(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	w.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	w.must(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: index}))
	return w
}

func (w *wire) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) send(h tap.VirtioHeader, frame []byte) {
	w.t.Helper()
	b := make([]byte, tap.VirtioHeaderSize)
	h.Put(b)
	_, err := unix.Write(w.fd, append(b[:wireHeader], frame...))
	w.must(err)
}

func (w *wire) receive() (tap.VirtioHeader, []byte) {
	w.t.Helper()
	b := make([]byte, 70000)
	n := w.read(b)
	h, err := tap.ParseVirtioHeader(b)
	w.must(err)
	h.NumBuffers = 0
	return h, b[wireHeader:n]
}

func (w *wire) read(b []byte) int {
	w.t.Helper()
	for {
		n, err := unix.Read(w.fd, b)
		if err != unix.EINTR {
			w.must(err)
			return n
		}
	}
}

// newTAPRig is a rig whose vif is a TAP, with pages as other processes have them.
func newTAPRig(t *testing.T, f features) (*rig, *wire) {
	t.Helper()
	ownNamespace(t)
	port, err := NewTAPPort(tap.Config{Name: "vif1.0", MTU: 9000})
	if err != nil {
		t.Fatal(err)
	}
	r := newRigOn(t, xensim.Options{GrantLimit: 4096}, Options{NewPort: func(VifInfo) (Port, error) { return port, nil }})
	w := openWire(t, port.Device().Index())
	r.connect(1, true, f)
	return r, w
}

func TestTAPCarriesFramesAndOffloadsBothWays(t *testing.T) {
	r, w := newTAPRig(t, allFeatures())
	q := r.queues[0]
	q.post(256)
	for i, c := range []struct {
		header tap.VirtioHeader
		frame  []byte
	}{
		{tap.VirtioHeader{}, frameOf(60, 1)},
		{blankHeader(4, protoUDP), packet(4, protoUDP, 1000)},
		{gsoHeader(4, 1448), packet(4, protoTCP, 20000)},
		{gsoHeader(4, 1448), packet(4, protoTCP, 65535-54-100)},
		{gsoHeader(6, 1428), packet(6, protoTCP, 30000)},
		{tap.VirtioHeader{}, frameOf(8000, 1)},
		{blankHeader(6, protoTCP), packet(6, protoTCP, 5000)},
		{tap.VirtioHeader{}, frameOf(61, 1)},
	} {
		// From the far side to the guest.
		w.send(c.header, c.frame)
		before := q.rx.Consumed()
		data, flags, gso := q.receive()
		if !bytes.Equal(data, c.frame) {
			t.Fatalf("frame %d to the guest: %d bytes, want %d", i, len(data), len(c.frame))
		}
		size, _ := gso.GSO()
		if (flags&netif.RxCsumBlank != 0) != (c.header.Flags != 0) || size != c.header.GSOSize {
			t.Errorf("frame %d to the guest: flags %#x, GSO %d", i, flags, size)
		}
		q.post(int(q.rx.Consumed() - before))

		// And the other way round.
		var flags2 uint16
		var extras []netif.Extra
		if c.header.Flags != 0 {
			flags2 = netif.TxCsumBlank | netif.TxDataValidated
		}
		if c.header.GSOSize != 0 {
			typ := netif.GSOTCPv4
			if c.header.GSOType == tap.GSOTCPv6 {
				typ = netif.GSOTCPv6
			}
			extras = append(extras, netif.NewGSO(c.header.GSOSize, typ))
		}
		q.expect(netif.StatusOkay, len(extras), q.send(c.frame, 4096, flags2, extras...)...)
		h, frame := w.receive()
		if !bytes.Equal(frame, c.frame) || h.GSOSize != c.header.GSOSize || h.Flags&1 != c.header.Flags&1 {
			t.Errorf("frame %d from the guest: %d bytes of %d, %+v", i, len(frame), len(c.frame), h)
		}
	}
	if s := r.vif.Stats(); s.Dropped() != 0 || s.RxSegmented != 0 {
		t.Errorf("%+v", s)
	}
}

func TestTAPCarriesBatchesInOrder(t *testing.T) {
	r, w := newTAPRig(t, allFeatures())
	q := r.queues[0]
	q.post(256)
	var ids []uint16
	for i := range 100 {
		ids = append(ids, q.put(frameOf(60+i, byte(i)), 4096, 0)...)
	}
	q.push()
	q.expect(netif.StatusOkay, 0, ids...)
	for i := range 100 {
		if _, frame := w.receive(); !bytes.Equal(frame, frameOf(60+i, byte(i))) {
			t.Fatalf("frame %d from the guest is another", i)
		}
	}
	for i := range 100 {
		w.send(tap.VirtioHeader{}, frameOf(60+i, byte(i)))
	}
	for i := range 100 {
		if data, _, _ := q.receive(); !bytes.Equal(data, frameOf(60+i, byte(i))) {
			t.Fatalf("frame %d to the guest is another", i)
		}
	}
}

func TestTAPDoesWhatTheFrontendDoesNot(t *testing.T) {
	f := allFeatures().with(netif.KeyNoCsumOffload, "1").with(netif.KeyIPv6Csum, "0")
	r, w := newTAPRig(t, f)
	q := r.queues[0]
	q.post(64)
	// Linux cuts and sums up above the driver, in the qdisc's path, which is open
	// some time after the carrier is on.
	w.must(unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 0))
	r.eventually(func() bool {
		w.send(gsoHeader(4, 1000), packet(4, protoTCP, 5000))
		q.wait()
		n, _ := q.rx.Responses()
		return n > 0
	})
	for range 5 {
		data, flags, _ := q.receive()
		if flags != 0 || !checksumOK(t, data, 0) {
			t.Errorf("flags %#x, checksum ok: %v", flags, checksumOK(t, data, 0))
		}
	}
	if s := r.vif.Stats(); s.RxSegmented != 0 {
		t.Error("segmented here, not in the kernel")
	}
}

func TestTAPOutlivesTheFrontendAndLosesItsCarrier(t *testing.T) {
	r, w := newTAPRig(t, allFeatures())
	r.queues[0].post(8)
	w.send(tap.VirtioHeader{}, frameOf(60, 1))
	r.queues[0].receive()
	r.close()
	r.setState(netif.StateInitialising)
	r.awaitState(netif.StateInitWait)
	if r.vif.carrierOn() {
		t.Error("carrier without a frontend")
	}
	r.connect(2, true, allFeatures())
	r.queues[0].post(8)
	r.queues[1].post(8)
	w.send(tap.VirtioHeader{}, frameOf(60, 2))
	r.eventually(func() bool {
		a, _ := r.queues[0].rx.Responses()
		b, _ := r.queues[1].rx.Responses()
		return a+b == 1
	})
}
