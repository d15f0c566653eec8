package tap

import (
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Whatever thread a method runs on, it works where the link is.
func TestDeviceWorksFromOutsideItsNamespace(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{Name: "xnf0"})
	done := make(chan error)
	go func() { // on another thread, which is in the first namespace
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		before, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer before.Close()
		_, err = d.SetQueues(2)
		err = errors.Join(err, d.SetMTU(1400), d.SetUp(true), d.SetCarrier(true), second(d.Stats()))
		if _, lookup := netlink.LinkByName("xnf0"); lookup == nil {
			err = errors.Join(err, errors.New("the link is in the first namespace too"))
		}
		after, _ := netns.Get()
		defer after.Close()
		if !after.Equal(before) {
			err = errors.Join(err, errors.New("the caller's thread was moved"))
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if a := linkNamed(t, "xnf0"); a.MTU != 1400 || a.RawFlags&unix.IFF_LOWER_UP == 0 {
		t.Errorf("MTU %d, flags %#x", a.MTU, a.RawFlags)
	}
}

// udev renames links.
func TestDeviceFollowsARename(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{Name: "xnf0"})
	link, err := netlink.LinkByIndex(d.Index())
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetName(link, "enX0"); err != nil {
		t.Fatal(err)
	}
	if d.Name() != "enX0" {
		t.Errorf("name is %q", d.Name())
	}
	if _, err := d.SetQueues(2); err != nil {
		t.Error(err)
	}
	if err := d.SetMTU(1400); err != nil {
		t.Error(err)
	}
}

// A link that was moved away must not make us change another that has its index.
func TestDeviceDoesNotTouchAnotherLinkOfItsIndex(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{Name: "xnf0"})
	other, err := Create(Config{Name: "xnf1"})
	if err != nil {
		t.Fatal(err)
	}
	d.index = other.index
	if err := d.SetMTU(1400); err != nil || linkNamed(t, "xnf0").MTU != 1400 {
		t.Errorf("set MTU: %v", err)
	}
	if mtu := linkNamed(t, "xnf1").MTU; mtu != 1500 {
		t.Errorf("the other's MTU is %d", mtu)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseIsFinalAndCanBeRepeated(t *testing.T) {
	enterNamespace(t)
	d, err := Create(Config{Name: "xnf0"})
	if err != nil {
		t.Fatal(err)
	}
	queues, err := d.SetQueues(2)
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(t, queues[0], 8)
	for range 2 {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if now := links(t); slices.Contains(now, "xnf0") {
			t.Errorf("links %v", now)
		}
	}
	for what, err := range map[string]error{
		"SetQueues": second(d.SetQueues(1)), "SetCarrier": d.SetCarrier(true), "SetUp": d.SetUp(true),
		"SetMTU": d.SetMTU(1400), "SetOffload": d.SetOffload(0), "Stats": second(d.Stats()),
		"Stations": second(d.Stations()), "NewWriter": second(queues[1].NewWriter(4)),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := errors.Join(queues[0].Close(), r.Close()); err != nil {
		t.Error(err)
	}
	if d.Name() != "" {
		t.Errorf("name is %q", d.Name())
	}
}

// Another process that holds descriptors must not keep the link alive by it.
func TestCloseRemovesALinkThatOthersHold(t *testing.T) {
	enterNamespace(t)
	d, err := Create(Config{Name: "xnf0"})
	if err != nil {
		t.Fatal(err)
	}
	held, err := unix.Dup(d.KeeperFD())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if now := links(t); slices.Contains(now, "xnf0") {
		t.Errorf("links %v", now)
	}
	unix.Close(held)
}

func TestNameIsFreeAgainAsSoonAsTheDeviceIsClosed(t *testing.T) {
	enterNamespace(t)
	for range 20 {
		d, err := Create(Config{Name: "xnf0"})
		if err != nil {
			t.Fatal(err)
		}
		queues, err := d.SetQueues(1)
		if err != nil {
			t.Fatal(err)
		}
		newReader(t, queues[0], 8)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
