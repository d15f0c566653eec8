package handover

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// space is a network namespace without a name, and the thread that lives in it. Sockets
// and processes that are made on that thread belong to the namespace; once made, a
// socket can be used by any goroutine.
type space struct {
	links *netlink.Handle
	calls chan func()
}

// newSpace makes a namespace, which ends with the test. What was started in it is
// killed then.
func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{calls: make(chan func())}
	opened, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		err := s.open()
		opened <- err
		if err != nil {
			return
		}
		for f := range s.calls {
			f()
		}
	}()
	must(t, <-opened)
	t.Cleanup(func() {
		s.links.Close()
		close(s.calls)
		<-ended
	})
	return s
}

func (s *space) open() error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	if s.links, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	lo, err := s.links.LinkByName("lo")
	if err != nil {
		return err
	}
	return s.links.LinkSetUp(lo)
}

// do calls f in the namespace.
func (s *space) do(f func() error) error {
	result := make(chan error, 1)
	s.calls <- func() { result <- f() }
	return <-result
}

// start starts a process in the namespace, which is killed at the end of the space:
// PR_SET_PDEATHSIG watches the thread that forked.
func (s *space) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	return s.do(cmd.Start)
}

// address gives a link its address and sets it up.
func (s *space) address(name string, ip net.IP) error {
	link, err := s.links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := s.links.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}}); err != nil {
		return fmt.Errorf("address of %s: %w", name, err)
	}
	return s.links.LinkSetUp(link)
}

// announceable are a link's addresses, and whether all are known to be unique.
func (s *space) announceable(t *testing.T, name string) (addresses []string, all bool) {
	t.Helper()
	link, err := s.links.LinkByName(name)
	must(t, err)
	list, err := s.links.AddrList(link, netlink.FAMILY_ALL)
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, false
	}
	must(t, err)
	all = true
	for _, a := range list {
		addresses = append(addresses, a.IP.String())
		all = all && a.Flags&unix.IFA_F_TENTATIVE == 0
	}
	return addresses, all
}

// neighbour says for good who has an address.
func (s *space) neighbour(name string, ip netip.Addr, mac net.HardwareAddr) error {
	link, err := s.links.LinkByName(name)
	if err != nil {
		return err
	}
	return s.links.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_INET,
		State: unix.NUD_PERMANENT, IP: net.IP(ip.AsSlice()), HardwareAddr: mac})
}

// bridge makes a bridge whose address does not change with its ports.
func (s *space) bridge(name string, mac net.HardwareAddr, ip net.IP) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, mac
	if err := s.links.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	return s.address(name, ip)
}

// enslave makes a link a port of a bridge.
func (s *space) enslave(name, bridge string) error {
	b, err := s.links.LinkByName(bridge)
	if err != nil {
		return err
	}
	link, err := s.links.LinkByName(name)
	if err != nil {
		return err
	}
	return s.links.LinkSetMaster(link, b)
}

// has tells whether there is a link of that name.
func (s *space) has(name string) bool {
	_, err := s.links.LinkByName(name)
	return err == nil
}

// counters are a link's figures.
func (s *space) counters(t *testing.T, name string) netlink.LinkStatistics {
	t.Helper()
	link, err := s.links.LinkByName(name)
	must(t, err)
	return *link.Attrs().Statistics
}

// tcpFigure is one of the namespace's figures of TCP, by its name in /proc/net/snmp or
// /proc/net/netstat.
func (s *space) tcpFigure(t *testing.T, name string) (value int) {
	t.Helper()
	found := false
	for _, file := range []string{"snmp", "netstat"} {
		var text []byte
		must(t, s.do(func() (err error) {
			text, err = os.ReadFile("/proc/thread-self/net/" + file)
			return err
		}))
		lines := strings.Split(string(text), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for k := range min(len(names), len(values)) {
				if names[k] == name {
					_, err := fmt.Sscan(values[k], &value)
					must(t, err)
					found = true
				}
			}
		}
	}
	if !found {
		t.Fatalf("the kernel has no figure %s", name)
	}
	return value
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// index is a link's number.
func (s *space) index(t *testing.T, name string) int {
	t.Helper()
	link, err := s.links.LinkByName(name)
	must(t, err)
	return link.Attrs().Index
}
