package demo

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netspace"
)

// side is one of the two machines: a network namespace and the process in it that
// makes its TAP.
type side struct {
	*netspace.Space
	name string
	v4   net.IP // its address; both sides are in one /24
	v6   net.IP // its address; both sides are in one /64
	tap  string
}

const (
	prefixV4 = 24
	prefixV6 = 64
)

// open makes the namespace.
func (s *side) open() error {
	space, err := netspace.New()
	switch {
	case errors.Is(err, unix.EPERM) && InUserNamespace():
		return explainUserNS(err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: run as root (sudo); in a container give it the capabilities SYS_ADMIN and NET_ADMIN", err)
	case err != nil:
		return err
	}
	s.Space = space
	return nil
}

// setUp gives the TAP its addresses and sets it up.
func (s *side) setUp() error {
	link, err := s.Links.LinkByName(s.tap)
	if err != nil {
		return fmt.Errorf("find %s of the %s: %w", s.tap, s.name, err)
	}
	for _, a := range []struct {
		ip   net.IP
		bits int
		all  int
	}{{s.v4, prefixV4, 32}, {s.v6, prefixV6, 128}} {
		// No other host is here, so a second of duplicate address detection is of no use.
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.ip, Mask: net.CIDRMask(a.bits, a.all)}, Flags: unix.IFA_F_NODAD}
		if err := s.Links.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("give %s the address %s: %w", s.tap, addr.IPNet, err)
		}
	}
	if err := s.Links.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", s.tap, err)
	}
	return nil
}
