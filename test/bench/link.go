package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
)

// link is one way between the two namespaces.
type link struct {
	name      string
	guest     net.IP // the guest's address on it
	network   net.IP // the network's
	device    string // the guest's end
	processes []*process
	// counters are those of xnetfrontd's queues, added up, as tx.NAME and rx.NAME; nil
	// for other links.
	counters func(context.Context) (map[string]uint64, error)
}

// Names of the links, and their networks: those that RFC 5737 gives to examples.
const (
	linkVeth       = "veth"
	linkForwarder  = "forwarder"
	linkXnetfrontd = "xnetfrontd"
)

func newLink(name, device string, third [3]byte) *link {
	return &link{
		name: name, device: device,
		guest:   net.IPv4(third[0], third[1], third[2], 1),
		network: net.IPv4(third[0], third[1], third[2], 2),
	}
}

// stop ends the link's processes, the last one first.
func (l *link) stop() error {
	var errs []error
	for i := len(l.processes) - 1; i >= 0; i-- {
		errs = append(errs, l.processes[i].stop())
	}
	return errors.Join(errs...)
}

// alive is nil while all of the link's processes run.
func (l *link) alive() error {
	for _, p := range l.processes {
		if err := p.alive(); err != nil {
			return err
		}
	}
	return nil
}

// spaces are the two ends of every link.
type spaces struct {
	guest, network *space
}

func (s spaces) address(l *link, networkDevice string) error {
	if err := s.guest.Address(l.device, l.guest); err != nil {
		return err
	}
	return s.network.Address(networkDevice, l.network)
}

// openVeth makes the veth pair.
func (s spaces) openVeth() (*link, error) {
	l := newLink(linkVeth, "veth0", [3]byte{192, 0, 2})
	return l, s.makeVeth(l)
}

// makeVeth makes l's veth pair, and gives both ends l's name and their addresses.
func (s spaces) makeVeth(l *link) error {
	err := s.guest.Links.LinkAdd(&netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: l.device, MTU: mtu, TxQLen: -1},
		PeerName:      l.device,
		PeerNamespace: netlink.NsFd(int(s.network.handle)),
	})
	if err != nil {
		return fmt.Errorf("make a veth pair: %w", err)
	}
	return s.address(l, l.device)
}

// mtu of every link, in bytes.
const mtu = 1500

// usage is what a link's processes have used and its device carried so far.
type usage struct {
	packets  uint64 // both ways
	cpu      map[string]time.Duration
	counters map[string]uint64
}

func (s spaces) usage(ctx context.Context, l *link) (u usage, err error) {
	u.cpu = make(map[string]time.Duration)
	for _, p := range l.processes {
		if u.cpu[p.name], err = p.cpu(); err != nil {
			return u, err
		}
	}
	if l.counters != nil {
		if u.counters, err = l.counters(ctx); err != nil {
			return u, err
		}
	}
	u.packets, err = s.guest.packets(l.device)
	return u, err
}
