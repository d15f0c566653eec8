package tap

import (
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// duplicates are what another process would get of a device's descriptors.
func duplicates(t *testing.T, d *Device, queues []*Queue) (keeper int, fds []int) {
	t.Helper()
	dup := func(fd int) int {
		n, err := unix.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, q := range queues {
		fds = append(fds, dup(q.FD()))
	}
	return dup(d.KeeperFD()), fds
}

func TestAdoptedLinkKeepsItsFramesAndItsCarrier(t *testing.T) {
	enterNamespace(t)
	noIPv6(t)
	d, err := Create(Config{Name: "xnf0", MAC: testMAC})
	if err != nil {
		t.Fatal(err)
	}
	queues, err := d.SetQueues(2)
	if err = errors.Join(err, d.SetCarrier(true), d.SetUp(true)); err != nil {
		t.Fatal(err)
	}
	newReader(t, queues[0], 8)
	index := d.Index()
	socket := newPacketSocket(t, index)
	keeper, fds := duplicates(t, d, queues)
	if err := d.Release(); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		socket.send(testFrame(60, i)) // while nobody is there
	}
	d, err = Adopt(Config{}, keeper, fds)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Name() != "xnf0" || d.Index() != index || !carrierOf(t, d) {
		t.Errorf("name %q, index %d, carrier %t", d.Name(), d.Index(), carrierOf(t, d))
	}
	queues, err = d.SetQueues(2)
	if err != nil || len(queues) != 2 || queues[0].FD() != fds[0] {
		t.Fatalf("%d queues: %v", len(queues), err)
	}
	frames := 0
	for _, q := range queues {
		bufs, n := readBuffers(8)
		got, err := newReader(t, q, 8).Read(bufs, n)
		if err != nil {
			t.Error(err)
		}
		frames += got
	}
	if frames != 5 {
		t.Errorf("%d frames, want 5", frames)
	}
	if _, err := d.SetQueues(3); err != nil || !carrierOf(t, d) {
		t.Errorf("carrier %t after one more queue: %v", carrierOf(t, d), err)
	}
	if d.ProbeOffload()&OffloadCsum == 0 {
		t.Error("no offloads")
	}
}

func TestAdoptRefusesWhatIsNotOneLinksQueues(t *testing.T) {
	enterNamespace(t)
	a, b := newDevice(t, Config{}), newDevice(t, Config{})
	queuesA, errA := a.SetQueues(1)
	queuesB, errB := b.SetQueues(1)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	own, foreign := queuesA[0].FD(), queuesB[0].FD()
	before := openDescriptors(t)
	for what, c := range map[string]struct {
		keeper int
		queues []int
	}{
		"queue of another link": {a.KeeperFD(), []int{own, foreign}},
		"queue as keeper":       {own, nil},
		"keeper as queue":       {a.KeeperFD(), []int{a.KeeperFD()}},
	} {
		if _, err := Adopt(Config{}, c.keeper, c.queues); !errors.Is(err, ErrQueue) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Adopt(Config{}, 0, nil); err == nil {
		t.Error("standard input passes for a keeper")
	}
	if left := newDescriptors(t, before); len(left) > 0 {
		t.Errorf("descriptors left: %v", left)
	}
	if _, err := queuesA[0].NewReader(4); err != nil { // still the device's own
		t.Error(err)
	}
}

// A link of the same name in the adopter's namespace must not be taken for ours.
func TestAdoptFindsALinkOfAnotherNamespaceAndNotItsTwin(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{Name: "xnf0", MAC: testMAC})
	keeper, _ := duplicates(t, d, nil)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		done <- func() error {
			other, err := netns.New()
			if err != nil {
				return err
			}
			defer other.Close()
			twin, err := Create(Config{Name: "xnf0"})
			if err != nil {
				return err
			}
			defer twin.Close()
			adopted, err := Adopt(Config{}, keeper, nil)
			if err != nil {
				return err
			}
			defer adopted.Release()
			s, err := adopted.State()
			if s.MAC.String() != testMAC.String() || s.Namespace == "" || !s.Known {
				err = errors.Join(err, fmt.Errorf("it is taken for %+v", s))
			}
			if _, err := adopted.SetQueues(1); err != nil {
				return err
			}
			return errors.Join(err, adopted.SetMTU(1400))
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if mtu := linkNamed(t, "xnf0").MTU; mtu != 1400 {
		t.Errorf("MTU %d", mtu)
	}
}
