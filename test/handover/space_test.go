package handover

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netspace"
)

// space is a network namespace, and what the tests do and see in it.
type space struct{ *netspace.Space }

// newSpace makes a namespace. It ends with the test, and the processes in it are killed then.
func newSpace(t *testing.T) *space {
	t.Helper()
	s, err := netspace.New()
	must(t, err)
	t.Cleanup(s.Close)
	return &space{s}
}

// announceable are a link's addresses, and whether all are known to be unique.
func (s *space) announceable(t *testing.T, name string) (addresses []string, all bool) {
	t.Helper()
	link, err := s.Links.LinkByName(name)
	must(t, err)
	list, err := s.Links.AddrList(link, netlink.FAMILY_ALL)
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
	link, err := s.Links.LinkByName(name)
	if err != nil {
		return err
	}
	return s.Links.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_INET,
		State: unix.NUD_PERMANENT, IP: net.IP(ip.AsSlice()), HardwareAddr: mac})
}

// bridge makes a bridge whose address does not change with its ports.
func (s *space) bridge(name string, mac net.HardwareAddr, ip net.IP) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = name, mac
	if err := s.Links.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	return s.Address(name, ip)
}

// enslave makes a link a port of a bridge.
func (s *space) enslave(name, bridge string) error {
	b, err := s.Links.LinkByName(bridge)
	if err != nil {
		return err
	}
	link, err := s.Links.LinkByName(name)
	if err != nil {
		return err
	}
	return s.Links.LinkSetMaster(link, b)
}

// has tells whether there is a link of that name.
func (s *space) has(name string) bool {
	_, err := s.Links.LinkByName(name)
	return err == nil
}

// counters are a link's figures.
func (s *space) counters(t *testing.T, name string) netlink.LinkStatistics {
	t.Helper()
	link, err := s.Links.LinkByName(name)
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
		must(t, s.Do(func() (err error) {
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
	link, err := s.Links.LinkByName(name)
	must(t, err)
	return link.Attrs().Index
}
