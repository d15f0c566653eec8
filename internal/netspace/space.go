// Package netspace gives a program network namespaces of its own, without names and
// without ip(8): nothing is left of one when the last process in it ends, however
// that happens.
package netspace

import (
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Space is a network namespace and a thread that lives in it. Sockets and processes
// that are made on that thread belong to the namespace; once made, a socket can be
// used by any goroutine.
type Space struct {
	// Links configures the namespace's links from any goroutine.
	Links *netlink.Handle
	calls chan func()
	ended chan struct{}
}

// New makes a namespace, with lo up. Without permission the error is EPERM.
func New() (*Space, error) {
	s := &Space{calls: make(chan func()), ended: make(chan struct{})}
	made := make(chan error)
	go s.live(made)
	if err := <-made; err != nil {
		return nil, err
	}
	return s, nil
}

// live is the life of the thread. It is never unlocked: the thread is spoilt for other
// goroutines, and ends with this one.
func (s *Space) live(made chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread does not end before the process, and it is what others see
		// as the process's namespace. While it is held here, a new goroutine gets
		// another one.
		go s.live(made)
		<-s.ended
		runtime.UnlockOSThread()
		return
	}
	defer close(s.ended)
	err := s.unshare()
	made <- err
	if err != nil {
		return
	}
	for f := range s.calls {
		f()
	}
}

func (s *Space) unshare() error {
	ns, err := netns.New()
	if err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	defer ns.Close()
	links, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in the new namespace: %w", err)
	}
	lo, err := links.LinkByName("lo")
	if err == nil {
		err = links.LinkSetUp(lo)
	}
	if err != nil {
		links.Close()
		return fmt.Errorf("set lo up in the new namespace: %w", err)
	}
	s.Links = links
	return nil
}

// Do calls f on the namespace's thread.
func (s *Space) Do(f func() error) error {
	result := make(chan error, 1)
	s.calls <- func() { result <- f() }
	return <-result
}

// Start starts a process in the namespace, in a process group of its own: a
// terminal's Ctrl-C is for the program that made the namespace. The process is killed
// by Close and when this program dies, since PR_SET_PDEATHSIG watches the thread that
// forked.
func (s *Space) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	cmd.SysProcAttr.Setpgid = true
	return s.Do(cmd.Start)
}

// Address gives a link an IPv4 address with a /24 network, and sets the link up.
func (s *Space) Address(name string, ip net.IP) error {
	link, err := s.Links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}}
	if err := s.Links.AddrAdd(link, a); err != nil {
		return fmt.Errorf("address of %s: %w", name, err)
	}
	if err := s.Links.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// Close ends the thread and, unless somebody else is in it, the namespace.
func (s *Space) Close() {
	s.Links.Close()
	close(s.calls)
	<-s.ended
}
