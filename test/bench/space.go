package main

import (
	"fmt"
	"net"
	"os/exec"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// space is a network namespace without a name, and the thread that lives in it.
// What is started there dies with this process.
type space struct {
	handle netns.NsHandle
	nl     *netlink.Handle
	calls  chan func()
}

func newSpace() (*space, error) {
	s := &space{calls: make(chan func())}
	opened := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		ns, err := netns.New()
		s.handle = ns
		opened <- err
		if err != nil {
			return
		}
		for f := range s.calls {
			f()
		}
	}()
	if err := <-opened; err != nil {
		return nil, fmt.Errorf("make a network namespace (root is needed): %w", err)
	}
	var err error
	if s.nl, err = netlink.NewHandleAt(s.handle, unix.NETLINK_ROUTE); err != nil {
		s.close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	lo, err := s.nl.LinkByName("lo")
	if err == nil {
		err = s.nl.LinkSetUp(lo)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("set lo up: %w", err)
	}
	return s, nil
}

// close lets go of the namespace, which ends with the last process in it.
func (s *space) close() {
	close(s.calls)
	if s.nl != nil {
		s.nl.Close()
	}
	s.handle.Close()
}

// do calls f in the namespace.
func (s *space) do(f func() error) error {
	result := make(chan error, 1)
	s.calls <- func() { result <- f() }
	return <-result
}

// start starts a process in the namespace, in a process group of its own: Ctrl-C is
// for this program, which then ends the others in their order. It is killed when this
// process dies, since PR_SET_PDEATHSIG watches the thread that forked.
func (s *space) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	return s.do(cmd.Start)
}

// address gives a link its address and sets it up.
func (s *space) address(name string, ip net.IP) error {
	link, err := s.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(24, 32)}}
	if err := s.nl.AddrAdd(link, a); err != nil {
		return fmt.Errorf("address of %s: %w", name, err)
	}
	if err := s.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// packets is how many frames went over a link so far, both ways. A super-frame is
// one.
func (s *space) packets(name string) (uint64, error) {
	link, err := s.nl.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	st := link.Attrs().Statistics
	if st == nil {
		return 0, fmt.Errorf("link %s has no statistics", name)
	}
	return st.RxPackets + st.TxPackets, nil
}
