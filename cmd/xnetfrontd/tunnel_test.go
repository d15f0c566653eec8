package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// end is one side of a demo: the network namespace of one of its processes.
type end struct {
	t     *testing.T
	ns    netns.NsHandle
	links *netlink.Handle
	tap   netlink.Link
	ip    net.IP // of the TAP
}

// ends are the two sides of a demo with --keep: the guest's, whose TAP is xnf0, and the
// backend's.
func ends(t *testing.T, out *output) (guest, back *end) {
	t.Helper()
	pids := regexp.MustCompile(`pid (\d+),`).FindAllStringSubmatch(out.String(), -1)
	if len(pids) != 2 {
		t.Fatalf("want the pids of two processes in:\n%s", out)
	}
	for _, p := range pids {
		pid, _ := strconv.Atoi(p[1])
		e := &end{t: t}
		var err error
		if e.ns, err = netns.GetFromPid(pid); err == nil {
			t.Cleanup(func() { e.ns.Close() })
			e.links, err = netlink.NewHandleAt(e.ns, unix.NETLINK_ROUTE)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.links.Close)
		all, err := e.links.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range all {
			if l.Type() == "tuntap" {
				e.tap = l
			}
		}
		if e.tap == nil {
			t.Fatalf("no TAP among %v", all)
		}
		addrs, err := e.links.AddrList(e.tap, netlink.FAMILY_V4)
		if err != nil || len(addrs) != 1 {
			t.Fatal(addrs, err)
		}
		e.ip = addrs[0].IP
		if e.tap.Attrs().Name == "xnf0" {
			guest = e
		} else {
			back = e
		}
	}
	if guest == nil || back == nil {
		t.Fatalf("not two sides:\n%s", out)
	}
	return guest, back
}

// do calls f on a thread in the namespace.
func (e *end) do(f func() error) {
	e.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: it ends with the goroutine
		err := netns.Set(e.ns)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		e.t.Fatal(err)
	}
}

// tunnel makes a VXLAN interface with this address to the other side.
func (e *end) tunnel(to net.IP, address string) {
	e.t.Helper()
	link := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx0", MTU: 1400}, VxlanId: 7, VtepDevIndex: e.tap.Attrs().Index, SrcAddr: e.ip, Group: to, Port: 4789}
	addr, err := netlink.ParseAddr(address)
	if err == nil {
		err = e.links.LinkAdd(link)
	}
	if err == nil {
		err = errors.Join(e.links.AddrAdd(link, addr), e.links.LinkSetUp(link))
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

func TestTCPOverAVXLANTunnelBetweenTheTwoEndsCarriesEveryByte(t *testing.T) {
	cmd, out, _ := startDemo(t, "--size", "1MiB", "--keep")
	out.await(t, "Ctrl-C ends it.\n")
	guest, back := ends(t, out)
	guest.tunnel(back.ip, "10.77.0.1/24")
	back.tunnel(guest.ip, "10.77.0.2/24")
	for name, way := range map[string]struct{ from, to *end }{"from the guest": {guest, back}, "to the guest": {back, guest}} {
		const size = 4 << 20
		address := "10.77.0.1:5001"
		if way.to == back {
			address = "10.77.0.2:5001"
		}
		var listener net.Listener
		way.to.do(func() (err error) { listener, err = net.Listen("tcp4", address); return err })
		got := make(chan int64, 1)
		go func() {
			c, err := listener.Accept()
			if err != nil {
				got <- -1
				return
			}
			defer c.Close()
			n, _ := io.Copy(io.Discard, c)
			got <- n
		}()
		way.from.do(func() error {
			c, err := net.DialTimeout("tcp4", address, patience)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			_, err = c.Write(make([]byte, size))
			return err
		})
		if n := <-got; n != size {
			t.Errorf("%s: %d bytes arrived of %d", name, n, size)
		}
		listener.Close()
	}
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}
