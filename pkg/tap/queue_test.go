package tap

import (
	"errors"
	"net"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func carrierOf(t *testing.T, d *Device) bool {
	t.Helper()
	return linkNamed(t, d.Name()).RawFlags&unix.IFF_LOWER_UP != 0
}

func TestCarrierIsWhatIsWantedWhileQueuesComeAndGo(t *testing.T) {
	enterNamespace(t)
	noIPv6(t)
	d := newDevice(t, Config{})
	if err := d.SetUp(true); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		queues  int
		carrier bool
	}{{0, false}, {2, false}, {1, false}, {1, true}, {3, true}, {2, true}, {0, true}, {1, true}, {1, false}, {2, false}, {0, false}} {
		if _, err := d.SetQueues(s.queues); err != nil {
			t.Fatal(err)
		}
		if err := d.SetCarrier(s.carrier); err != nil {
			t.Fatal(err)
		}
		if got, want := carrierOf(t, d), s.carrier && s.queues > 0; got != want {
			t.Errorf("%d queues, carrier wanted %t: it is %t", s.queues, s.carrier, got)
		}
	}
}

func TestCarrierStaysOffAsQueuesAreOpened(t *testing.T) {
	enterNamespace(t)
	noIPv6(t)
	d := newDevice(t, Config{})
	if err := d.SetUp(true); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	updates := make(chan netlink.LinkUpdate, 100)
	if err := netlink.LinkSubscribe(updates, stop); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 2, 0, 1} {
		if _, err := d.SetQueues(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.SetMTU(1234); err != nil { // marks the end
		t.Fatal(err)
	}
	for u := range updates {
		if u.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			t.Error("the carrier came on")
		}
		if u.Attrs().MTU == 1234 {
			break
		}
	}
	close(stop)
	for range updates { // closed when the subscription's socket is
	}
}

func TestLinkKeepsItsAddressesWithoutQueues(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	if err := d.SetUp(true); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByIndex(d.Index())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"10.1.2.3", "2001:db8::1"}
	for _, a := range []string{"10.1.2.3/24", "2001:db8::1/64"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
	}
	_, remote, _ := net.ParseCIDR("192.0.2.0/24")
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: d.Index(), Dst: remote, Gw: net.IPv4(10, 1, 2, 1)}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{2, 0, 1, 0} {
		if _, err := d.SetQueues(n); err != nil {
			t.Fatal(err)
		}
	}
	ips := ownAddresses(t, d)
	for _, w := range want {
		if !slices.ContainsFunc(ips, func(ip net.IP) bool { return ip.String() == w }) {
			t.Errorf("address %s is not among %v", w, ips)
		}
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil || !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == remote.String() }) {
		t.Errorf("the route is gone: %v, %v", routes, err)
	}
}

func TestAddressesLeaveOutThoseNotYetUnique(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	if err := d.SetUp(true); err != nil { // without a carrier: no check for uniqueness can end
		t.Fatal(err)
	}
	link, err := netlink.LinkByIndex(d.Index())
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := netlink.ParseAddr("2001:db8::2/64")
	if err := netlink.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	if ips := ownAddresses(t, d); len(ips) != 0 {
		t.Errorf("addresses %v", ips)
	}
}

func TestQueuesThatStayKeepTheirFrames(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{}, 1)
	socket := newPacketSocket(t, d.Index())
	for i := range 3 {
		socket.send(testFrame(60, i))
	}
	first := queues[0]
	for _, n := range []int{4, 2, 1} {
		queues, err := d.SetQueues(n)
		if err != nil || len(queues) != n || queues[0] != first {
			t.Fatalf("%d queues: got %d, the first is the same: %t: %v", n, len(queues), queues[0] == first, err)
		}
	}
	bufs, n := readBuffers(8)
	if got, err := newReader(t, first, 8).Read(bufs, n); got != 3 || err != nil {
		t.Errorf("read %d frames, want 3: %v", got, err)
	}
}

// That a closed queue's frames are lost is why queues stay attached across reconnects.
func TestClosedQueueLosesItsFrames(t *testing.T) {
	enterNamespace(t)
	d, _ := liveDevice(t, Config{}, 1)
	newPacketSocket(t, d.Index()).send(testFrame(60, 0))
	if _, err := d.SetQueues(0); err != nil {
		t.Fatal(err)
	}
	queues, err := d.SetQueues(1)
	if err != nil {
		t.Fatal(err)
	}
	bufs, n := readBuffers(2)
	if got, err := newReader(t, queues[0], 2).Read(bufs, n); got != 0 || err != nil {
		t.Errorf("read %d frames: %v", got, err)
	}
}

// The ring holds the queue's open file: unless it lets go at once, the queue stays
// attached and swallows the frames of its flows.
func TestClosedQueueIsDetachedAtOnceAlthoughItHadRings(t *testing.T) {
	enterNamespace(t)
	for range 20 {
		d, err := Create(Config{Name: "xnf0"})
		if err != nil {
			t.Fatal(err)
		}
		queues, err := d.SetQueues(2)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range queues {
			newReader(t, q, 8)
			newWriter(t, q, 8)
		}
		// Release does not delete the link, so it goes only with its last descriptor.
		if err := d.Release(); err != nil {
			t.Fatal(err)
		}
		if now := links(t); slices.Contains(now, "xnf0") {
			t.Fatalf("the link is still there: %v", now)
		}
	}
}

func TestSetQueuesRefusesNumbersOutOfRange(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	for _, n := range []int{-1, MaxQueues + 1} {
		if _, err := d.SetQueues(n); !errors.Is(err, ErrSetting) {
			t.Errorf("%d queues: %v", n, err)
		}
	}
	queues, err := d.SetQueues(MaxQueues)
	if err != nil || len(queues) != MaxQueues {
		t.Errorf("%d queues: %d: %v", MaxQueues, len(queues), err)
	}
}

func TestSetQueuesKeepsWhatWasThereWhenItCannotGrow(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	if _, err := d.SetQueues(2); err != nil {
		t.Fatal(err)
	}
	before := openDescriptors(t)
	// Somebody else's queues leave room for two more.
	var others []int
	for range MaxQueues - 4 {
		fd, err := openWater(d.Name())
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, fd)
	}
	queues, err := d.SetQueues(10)
	if err == nil || len(queues) != 2 {
		t.Errorf("%d queues: %v", len(queues), err)
	}
	for _, fd := range others {
		unix.Close(fd)
	}
	if left := newDescriptors(t, before); len(left) > 0 {
		t.Errorf("descriptors left: %v", left)
	}
}

func TestQueueCloseTakesItOutOfTheDevice(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	queues, err := d.SetQueues(3)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := queues[1].Close(); err != nil {
			t.Error(err)
		}
	}
	if fd := queues[1].FD(); fd != -1 {
		t.Errorf("descriptor %d after Close", fd)
	}
	if _, err := queues[1].NewReader(8); !errors.Is(err, ErrClosed) {
		t.Errorf("reader of a closed queue: %v", err)
	}
	after, err := d.SetQueues(2)
	if err != nil || !slices.Equal(after, []*Queue{queues[0], queues[2]}) {
		t.Errorf("queues left: %v: %v", after, err)
	}
}

func TestReadersOfOneQueueAfterAnotherLeaveNothing(t *testing.T) {
	enterNamespace(t)
	_, queues := liveDevice(t, Config{}, 1)
	before := openDescriptors(t)
	for range 3 {
		r, w := newReader(t, queues[0], 8), newWriter(t, queues[0], 8)
		for range 2 {
			if err := errors.Join(r.Close(), w.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	if left := newDescriptors(t, before); len(left) > 0 {
		t.Errorf("descriptors left: %v", left)
	}
}

func TestQueuesHaveTheVirtioHeaderAndNoOthersDo(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	queues, err := d.SetQueues(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range queues {
		if _, err := checkQueue(q.FD(), false); err != nil {
			t.Error(err)
		}
		if _, err := checkQueue(q.FD(), true); !errors.Is(err, ErrQueue) {
			t.Errorf("a worker's queue passes for the keeper: %v", err)
		}
	}
	if err := unix.IoctlSetPointerInt(d.keeper, unix.TUNSETVNETHDRSZ, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SetQueues(3); !errors.Is(err, ErrQueue) {
		t.Errorf("a header of 10 bytes: %v", err)
	}
}
