package tap

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// senderTo is a UDP socket of this machine that sends through the device, and does not
// wait.
func senderTo(t *testing.T, d *Device) int {
	t.Helper()
	addAddress(t, d)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 0, 0, 2}}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// sendUntilHeld sends datagrams until the socket is full, and returns how many it took.
func sendUntilHeld(t *testing.T, fd, most int) int {
	t.Helper()
	datagram := make([]byte, 1400)
	for n := range most {
		if err := unix.Send(fd, datagram, 0); errors.Is(err, unix.EAGAIN) {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return most
}

// drain reads what is in the queue, or comes within the time that a poll waits.
func drain(t *testing.T, q *Queue, want int) (got int) {
	t.Helper()
	r := newReader(t, q, 32)
	bufs, n := readBuffers(32)
	for got < want {
		fds := []unix.PollFd{{Fd: int32(q.FD()), Events: unix.POLLIN}}
		if ready, err := unix.Poll(fds, 10_000); err != nil || ready == 0 {
			t.Fatalf("after %d frames of %d: no more in 10 s, %v", got, want, err)
		}
		k, err := r.Read(bufs, n)
		if err != nil {
			t.Fatal(err)
		}
		got += k
	}
	return got
}

func dropped(t *testing.T, d *Device) uint64 {
	t.Helper()
	s, err := d.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s.TxDropped
}

func TestShapedLinkHoldsItsSendersBackInsteadOfDropping(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{}, 1)
	fd := senderTo(t, d)
	if n := sendUntilHeld(t, fd, 2000); n != 2000 || dropped(t, d) < 900 {
		t.Fatalf("not shaped, the socket took %d datagrams, and the TAP dropped %d", n, dropped(t, d))
	}
	drain(t, queues[0], 1000)
	before := dropped(t, d)
	if err := d.Shape([]uint64{20_000}); err != nil { // 14 frames a second
		t.Fatal(err)
	}
	n := sendUntilHeld(t, fd, 2000)
	if n == 2000 || dropped(t, d) != before {
		t.Errorf("shaped, the socket took %d datagrams, and the TAP dropped %d", n, dropped(t, d)-before)
	}
	shapers, shaped, err := d.Shapers()
	if err != nil || !shaped || len(shapers) != 1 {
		t.Fatalf("shapers %+v, %t: %v", shapers, shaped, err)
	}
	if s := shapers[0]; s.Frames == 0 || s.Bytes < 1400*s.Frames || int(s.Frames) > n || s.Dropped != 0 {
		t.Errorf("of %d datagrams %+v wait", n, s)
	}
	// A higher rate loses none of them.
	if err := d.Shape([]uint64{100_000_000}); err != nil {
		t.Fatal(err)
	}
	drain(t, queues[0], n)
	if dropped(t, d) != before {
		t.Errorf("the TAP dropped %d", dropped(t, d)-before)
	}
}

func TestEachQueueHasItsRateBehindTheSystemsOwnDiscipline(t *testing.T) {
	enterNamespace(t)
	d, _ := liveDevice(t, Config{}, 3)
	before, shaped, err := d.Shapers()
	if err != nil || shaped || len(before) != 3 || before[0].Kind == "" {
		t.Fatalf("before: %+v, %t: %v", before, shaped, err)
	}
	rates := []uint64{1_000_000, 2_000_000, MaxShapeRate}
	for range 2 {
		if err := d.Shape(rates); err != nil {
			t.Fatal(err)
		}
		after, shaped, err := d.Shapers()
		if err != nil || !shaped || !slices.Equal(after, before) {
			t.Errorf("shaped: %+v, want %+v, %t: %v", after, before, shaped, err)
		}
		link, _ := netlink.LinkByIndex(d.Index())
		for i, rate := range rates {
			classes, err := netlink.ClassList(link, netlink.MakeHandle(uint16(shapeRoot+1+i), 0))
			if err != nil {
				t.Fatal(err)
			}
			if at := slices.IndexFunc(classes, func(c netlink.Class) bool { return c.Attrs().Handle == classOf(i) }); at < 0 || classes[at].(*netlink.HtbClass).Rate != rate {
				t.Errorf("queue %d: classes %v, want a rate of %d", i, classes, rate)
			}
		}
		rates[0], rates[1] = 3_000_000, 500_000
	}
	if err := d.Unshape(); err != nil {
		t.Fatal(err)
	}
	if after, shaped, err := d.Shapers(); err != nil || shaped || !slices.Equal(after, before) {
		t.Errorf("afterwards: %+v, want %+v, %t: %v", after, before, shaped, err)
	}
	if err := d.Unshape(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestDisciplineThatSomebodyElseSetIsLeftAlone(t *testing.T) {
	enterNamespace(t)
	d, _ := liveDevice(t, Config{}, 1)
	link, _ := netlink.LinkByIndex(d.Index())
	theirs := &netlink.GenericQdisc{QdiscType: "pfifo", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: d.Index(), Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}}
	if err := netlink.QdiscReplace(theirs); err != nil {
		t.Fatal(err)
	}
	if err := d.Shape([]uint64{1_000_000}); !errors.Is(err, ErrQdisc) {
		t.Errorf("Shape: %v", err)
	}
	if err := d.Unshape(); err != nil {
		t.Errorf("Unshape: %v", err)
	}
	if shapers, shaped, err := d.Shapers(); shapers != nil || shaped || err != nil {
		t.Errorf("shapers %+v, %t, %v", shapers, shaped, err)
	}
	list, err := netlink.QdiscList(link)
	if err != nil || len(list) != 1 || list[0].Type() != "pfifo" || list[0].Attrs().Handle != theirs.Handle {
		t.Errorf("disciplines %v: %v", list, err)
	}
}

func TestRatesThatMakeNoSenseAreRefused(t *testing.T) {
	enterNamespace(t)
	d, _ := liveDevice(t, Config{}, 2)
	for _, rates := range [][]uint64{nil, {1}, {1, 2, 3}, {0, 1}, {1, MaxShapeRate + 1}} {
		if err := d.Shape(rates); !errors.Is(err, ErrSetting) {
			t.Errorf("%v: %v", rates, err)
		}
	}
	if _, shaped, err := d.Shapers(); shaped || err != nil {
		t.Errorf("shaped is %t: %v", shaped, err)
	}
}

func TestLimitOfSuperFramesLeavesSomebodyElsesAlone(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{Name: "xnf0"})
	for _, size := range []int{8000, 6000, MaxGSOSize, 7000} {
		if err := d.LimitGSO(size); err != nil || int(linkNamed(t, "xnf0").GSOMaxSize) != size {
			t.Errorf("%d, want %d: %v", linkNamed(t, "xnf0").GSOMaxSize, size, err)
		}
	}
	link, _ := netlink.LinkByName("xnf0")
	if err := netlink.LinkSetGSOMaxSize(link, 30000); err != nil {
		t.Fatal(err)
	}
	if err := d.LimitGSO(MaxGSOSize); err != nil || linkNamed(t, "xnf0").GSOMaxSize != 30000 {
		t.Errorf("%d, want somebody else's 30000: %v", linkNamed(t, "xnf0").GSOMaxSize, err)
	}
	if err := d.LimitGSO(0); !errors.Is(err, ErrSetting) {
		t.Errorf("0: %v", err)
	}
}

// Whether a kernel has IFF_BACKPRESSURE or not, the device says what its TAP does.
func TestDeviceKnowsWhetherItsTAPStopsWhenFull(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{TxQueueLen: 8}, 1)
	fd := senderTo(t, d)
	n := sendUntilHeld(t, fd, 5000)
	if drops := dropped(t, d) > 0; drops == d.Pushes() {
		t.Errorf("it dropped %d of %d, and Pushes is %t", dropped(t, d), n, d.Pushes())
	}
	if d.Pushes() != canPushBack() {
		t.Errorf("Pushes is %t, the kernel's word %t", d.Pushes(), canPushBack())
	}
	drain(t, queues[0], 8)
}
