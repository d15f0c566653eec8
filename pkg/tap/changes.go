package tap

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// changes tells that links or addresses have changed.
type changes struct {
	socket *nl.NetlinkSocket
	poke   chan struct{}
	done   sync.WaitGroup
	// everywhere says that it hears of other network namespaces, too.
	everywhere bool
}

// watchChanges hears of the network namespace of the calling thread, and where it is allowed
// to (CAP_NET_BROADCAST) of all others that have a number there.
func watchChanges(privileged func(func() error) error) (*changes, error) {
	c := &changes{poke: make(chan struct{}, 1)}
	err := privileged(func() (err error) {
		c.socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
		if err != nil {
			return err
		}
		c.everywhere = unix.SetsockoptInt(c.socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1) == nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("watch links and addresses: %w", err)
	}
	c.done.Go(c.follow)
	return c, nil
}

// follow pokes after every message. What it could not take in time (ENOBUFS) may have been
// anything.
func (c *changes) follow() {
	for {
		_, _, err := c.socket.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return // closed
		}
		select {
		case c.poke <- struct{}{}:
		default: // somebody is about to look
		}
	}
}

func (c *changes) close() {
	if c == nil {
		return
	}
	c.socket.Close()
	c.done.Wait()
}

// Changes gets something after links or addresses of the system have changed, perhaps several
// times. What stands on the link and in which namespaces, [Device.Stations] tells.
func (d *Device) Changes() <-chan struct{} { return d.changes.poke }

// HearsOfOthers tells whether [Device.Changes] is about other network namespaces, too: else one
// has to look from time to time.
func (d *Device) HearsOfOthers() bool { return d.changes.everywhere }
