package tap

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
)

// space is one more network namespace.
type space struct {
	t     *testing.T
	ns    netns.NsHandle
	links *netlink.Handle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	s := &space{t: t}
	if s.ns, err = netns.New(); err != nil {
		t.Fatal(err)
	}
	if err := netns.Set(before); err != nil {
		t.Fatal(err)
	}
	if s.links, err = netlink.NewHandleAt(s.ns, unix.NETLINK_ROUTE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.links.Close()
		s.ns.Close()
	})
	return s
}

// take moves a link of the calling thread's namespace there.
func (s *space) take(name string) {
	s.t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetNsFd(link, int(s.ns))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) named(name string) netlink.Link {
	s.t.Helper()
	link, err := s.links.LinkByName(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return link
}

// give gives a link there an address and sets it up.
func (s *space) give(name, cidr string) { s.t.Helper(); giveAddress(s.t, s.links, name, cidr) }

func giveAddress(t *testing.T, links *netlink.Handle, name, cidr string) {
	t.Helper()
	link, err := links.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD
	if err := errors.Join(links.AddrAdd(link, addr), links.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
}

func TestLinkThatWasMovedIsServedWhereItIs(t *testing.T) {
	enterNamespace(t)
	other := newSpace(t)
	d, queues := liveDevice(t, Config{Name: "xnf0", MAC: testMAC}, 1)
	// One that has the name at home must be left alone.
	other.take("xnf0")
	twin := newDevice(t, Config{Name: "xnf0"})
	other.give("xnf0", "10.1.2.3/24")

	s, err := d.State()
	if err != nil || !s.Known || s.Namespace == "" || s.Name != "xnf0" || s.MAC.String() != testMAC.String() || !s.Up {
		t.Errorf("state %+v: %v", s, err)
	}
	if got := stationTexts(t, d); !slices.Equal(got, []string{testMAC.String() + " 10.1.2.3"}) {
		t.Errorf("stations %v", got)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	err = errors.Join(d.SetMAC(mac), d.SetMTU(1400), d.SetTxQueueLen(77), d.SetCarrier(false))
	a := other.named("xnf0").Attrs()
	if err != nil || a.HardwareAddr.String() != mac.String() || a.MTU != 1400 || a.TxQLen != 77 || a.RawFlags&unix.IFF_LOWER_UP != 0 {
		t.Errorf("set: %v; %+v", err, a)
	}
	if err := d.SetCarrier(true); err != nil || other.named("xnf0").Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
		t.Errorf("carrier: %v", err)
	}
	if q, err := d.SetQueues(3); err != nil || len(q) != 3 || q[0] != queues[0] {
		t.Errorf("%d queues: %v", len(q), err)
	}
	if s, err := twin.State(); err != nil || s.MTU != 1500 || s.Namespace != "" {
		t.Errorf("the twin at home: %+v, %v", s, err)
	}
	// Another process goes on with it.
	keeper, fds := duplicates(t, d, queues)
	next, err := Adopt(Config{}, keeper, fds)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := next.State(); err != nil || s.Namespace == "" || s.MTU != 1400 {
		t.Errorf("adopted: %+v, %v", s, err)
	}
	if err := next.Release(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(d.Close(), twin.Close()); err != nil {
		t.Error(err)
	}
	if _, err := other.links.LinkByName("xnf0"); err == nil {
		t.Error("it is left where it was moved to")
	}
}

func TestLinkThatComesBackIsAtHome(t *testing.T) {
	enterNamespace(t)
	other := newSpace(t)
	d := newDevice(t, Config{Name: "xnf0"})
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	other.take("xnf0")
	if s, err := d.State(); err != nil || s.Namespace == "" {
		t.Errorf("away: %+v, %v", s, err)
	}
	link := other.named("xnf0")
	if err := errors.Join(other.links.LinkSetName(link, "back0"), other.links.LinkSetNsFd(link, int(here))); err != nil {
		t.Fatal(err)
	}
	s, err := d.State()
	if err != nil || s.Namespace != "" || s.Name != "back0" || s.Index != linkNamed(t, "back0").Index {
		t.Errorf("back: %+v, %v", s, err)
	}
}

// inUnit runs a test in another process, as another user with no more than the given
// capabilities, which has d's descriptors. That is how the daemon's unit runs it.
func inUnit(t *testing.T, test string, d *Device, queues []*Queue, capabilities ...uintptr) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), "TAP_IN_UNIT=1")
	keeper, fds := duplicates(t, d, queues)
	for _, fd := range append([]int{keeper}, fds...) {
		f := os.NewFile(uintptr(fd), "queue")
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: capabilities}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

// adoptedInUnit is the device in the process that inUnit starts; it skips the test elsewhere.
func adoptedInUnit(t *testing.T) *Device {
	t.Helper()
	if os.Getenv("TAP_IN_UNIT") == "" {
		t.Skip("not run by itself: another test runs it in a process without privileges")
	}
	d, err := Adopt(Config{}, 3, []int{4, 5})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Release() })
	return d
}

// moved is a link that was moved to another namespace, with a macvlan in a third.
func moved(t *testing.T) (*Device, []*Queue) {
	enterNamespace(t)
	links := here(t)
	blue, green := newSpace(t), newSpace(t)
	d, queues := liveDevice(t, Config{Name: "xnf0", MAC: testMAC}, 2)
	addLink(t, links, &netlink.Macvlan{LinkAttrs: attrs("mv1", d.Index(), hardware(2)), Mode: netlink.MACVLAN_MODE_BRIDGE})
	green.take("mv1")
	green.give("mv1", "10.0.0.2/24")
	blue.take("xnf0")
	blue.give("xnf0", "10.1.2.3/24")
	return d, queues
}

// Without CAP_SYS_ADMIN no thread can enter another namespace.
func TestWhatTheUnitMayNotDoElsewhereIsSaidAndTheRestDone(t *testing.T) {
	d, queues := moved(t)
	inUnit(t, "TestElsewhereInUnit", d, queues, unix.CAP_NET_ADMIN)
}

func TestElsewhereInUnit(t *testing.T) {
	d := adoptedInUnit(t)
	s, err := d.State()
	if err != nil || !s.Known || !s.Up || s.Namespace == "" {
		t.Errorf("state %+v: %v", s, err)
	}
	wantStations(t, d, testMAC.String()+" 10.1.2.3", hardware(2).String()+" 10.0.0.2")
	if err := errors.Join(d.SetCarrier(false), d.SetCarrier(true), second(d.SetQueues(1)), d.SetMAC(testMAC)); err != nil {
		t.Error(err)
	}
	if err := d.SetMTU(1400); !errors.Is(err, ErrElsewhere) {
		t.Errorf("set MTU: %v", err)
	}
	if _, err := d.SetQueues(2); !errors.Is(err, ErrElsewhere) {
		t.Errorf("open a queue: %v", err)
	}
}

// Without any capability nothing is known but what the descriptors tell.
func TestLinkIsServedElsewhereWithoutAnyPrivilege(t *testing.T) {
	d, queues := moved(t)
	inUnit(t, "TestElsewhereWithoutPrivilege", d, queues)
}

func TestElsewhereWithoutPrivilege(t *testing.T) {
	d := adoptedInUnit(t)
	s, err := d.State()
	if err != nil || s.Known || s.Namespace == "" || s.Name != "xnf0" || s.MAC.String() != testMAC.String() {
		t.Errorf("state %+v: %v", s, err)
	}
	wantStations(t, d, testMAC.String())
	if err := errors.Join(d.SetCarrier(false), d.SetCarrier(true)); err != nil {
		t.Error(err)
	}
	if _, err := d.Stats(); !errors.Is(err, ErrElsewhere) {
		t.Errorf("counters: %v", err)
	}
}

// What may not be looked into is known by the MAC address that the link takes frames for.
func TestMacvlanOfANamespaceThatMayNotBeLookedIntoIsKnownByItsMAC(t *testing.T) {
	enterNamespace(t)
	links := here(t)
	green := newSpace(t)
	d, queues := liveDevice(t, Config{Name: "xnf0", MAC: testMAC}, 2)
	addLink(t, links, &netlink.Macvlan{LinkAttrs: attrs("mv1", d.Index(), hardware(2)), Mode: netlink.MACVLAN_MODE_BRIDGE})
	green.take("mv1")
	green.give("mv1", "10.0.0.2/24")
	inUnit(t, "TestMacvlanWithoutPrivilege", d, queues)
}

func TestMacvlanWithoutPrivilege(t *testing.T) {
	wantStations(t, adoptedInUnit(t), testMAC.String(), hardware(2).String())
}

func TestLinkWhoseNamespaceIsGoneIsGone(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{Name: "xnf0"})
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	ns, err := netns.New()
	if err = errors.Join(err, netns.Set(before)); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("xnf0")
	if err == nil {
		err = netlink.LinkSetNsFd(link, int(ns))
	}
	if err = errors.Join(err, ns.Close()); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the end of the namespace", func() bool {
		_, err := d.State()
		return errors.Is(err, ErrLinkGone)
	})
}

func TestNamespaceIsCalledByItsName(t *testing.T) {
	enterNamespace(t)
	other := newSpace(t)
	dir := t.TempDir()
	before := named
	named = []string{dir}
	defer func() { named = before }()
	path := dir + "/blue"
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(fdPath(int(other.ns)), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(path, unix.MNT_DETACH)
	d := newDevice(t, Config{Name: "xnf0"})
	other.take("xnf0")
	if s, err := d.State(); err != nil || s.Namespace != "blue" {
		t.Errorf("%+v, %v", s, err)
	}
}
