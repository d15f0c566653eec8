package netfront

import (
	"errors"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// told is what the guest's part of xenstore says of vif 0's addresses, as XAPI reads it.
func (w *world) told() map[string]string {
	w.t.Helper()
	ctx, store := w.deadline(), w.server.Toolstack()
	dir := xensim.HomePath(w.domain()) + "/attr/vif/0"
	all := map[string]string{}
	for _, family := range []string{"ipv4", "ipv6"} {
		names, err := store.Directory(ctx, dir+"/"+family)
		if err != nil && !errors.Is(err, xenstore.ErrNotFound) {
			w.t.Fatal(err)
		}
		for _, n := range names {
			v, err := store.Read(ctx, dir+"/"+family+"/"+n)
			if errors.Is(err, xenstore.ErrNotFound) {
				return nil // it changes just now
			}
			w.check(err)
			all[family+"/"+n] = v
		}
	}
	return all
}

// wantTold waits until XAPI reads this.
func (w *world) wantTold(want map[string]string) {
	w.t.Helper()
	w.eventually("the toolstack to be told", func() bool { return maps.Equal(w.told(), want) })
}

// address gives the TAP an address, or takes it away.
func (w *world) address(add bool, cidr string) {
	w.t.Helper()
	link, err := netlink.LinkByName(w.dev.Name())
	w.check(err)
	a, err := netlink.ParseAddr(cidr)
	w.check(err)
	a.Flags = 2 // IFA_F_NODAD
	if add {
		w.check(netlink.AddrAdd(link, a))
	} else {
		w.check(netlink.AddrDel(link, a))
	}
}

func TestXAPIIsToldTheAddressesOfTheTAPAsTheyChange(t *testing.T) {
	w := newWorld(t, worldConfig{offline: true, front: Config{ReportAddresses: func() Reporting { return ReportToXAPI }}, often: 10 * time.Millisecond})
	w.disconnect("0") // by which a vif is XAPI's
	w.backend(worldConfig{})
	w.connected(1)
	w.address(true, "192.0.2.10/24")
	local := w.localAddress()
	w.wantTold(map[string]string{"ipv4/0": "192.0.2.10", "ipv6/0": local})
	updated := xensim.HomePath(guestDom) + "/data/updated"
	if _, err := w.server.Toolstack().Read(w.deadline(), updated); err != nil {
		t.Errorf("XAPI is not told to look: %v", err)
	}
	w.address(true, "2001:db8::10/64")
	w.address(true, "192.0.2.11/24")
	w.wantTold(map[string]string{"ipv4/0": "192.0.2.10", "ipv4/1": "192.0.2.11", "ipv6/0": "2001:db8::10", "ipv6/1": local})
	w.address(false, "192.0.2.10/24")
	w.address(false, "2001:db8::10/64")
	w.eventually("the addresses to be taken back", func() bool {
		told := w.told()
		return len(told) <= 2 && told["ipv6/0"] == local && told["ipv4/0"] != "192.0.2.10"
	})
	w.stop(nil)
	w.check(<-w.ran)
	if told := w.told(); len(told) != 0 {
		t.Errorf("after the end there is %v", told)
	}
	w.check(w.dev.Close())
	w.check(w.front.Close())
	w.begin() // for the world's own end
}

// XenServer's guest agent removes what it once wrote for the kernel's interface (InvalidCacheFlush
// of xe-guest-utilities), up to two of its intervals after the daemon has taken the vif.
func TestAddressesThatSomebodyElseTakesAwayAreToldAgain(t *testing.T) {
	w := newWorld(t, worldConfig{front: Config{ReportAddresses: func() Reporting { return ReportAlways }}, often: 10 * time.Millisecond})
	w.connected(1)
	w.address(true, "192.0.2.10/24")
	want := map[string]string{"ipv4/0": "192.0.2.10", "ipv6/0": w.localAddress()}
	w.wantTold(want)
	toolstack, home := w.server.Toolstack(), xensim.HomePath(w.domain())
	w.check(toolstack.Remove(w.deadline(), home+"/data/updated"))
	w.check(toolstack.Remove(w.deadline(), home+"/attr/vif/0/ipv4/0"))
	w.wantTold(want)
	w.eventually("XAPI to be told to look", func() bool {
		_, err := toolstack.Read(w.deadline(), home+"/data/updated")
		return err == nil
	})
	w.check(toolstack.Write(w.deadline(), home+"/attr/vif/0/ipv4/0", "198.51.100.7"))
	w.wantTold(want)
	w.check(toolstack.Remove(w.deadline(), home+"/attr/vif"))
	w.wantTold(want)
}

// localAddress is the TAP's link-local one, once it may be used.
func (w *world) localAddress() (text string) {
	w.t.Helper()
	w.eventually("a link-local address", func() bool {
		addrs, err := w.dev.link.Addresses()
		w.check(err)
		for _, a := range addrs {
			if a.IsLinkLocalUnicast() && a.To4() == nil {
				text = a.String()
			}
		}
		return text != ""
	})
	return text
}

func TestOtherToolstacksAreToldTheAddressesOnlyIfTheyShallBe(t *testing.T) {
	var mode, looks atomic.Int32
	mode.Store(int32(ReportToXAPI))
	w := newWorld(t, worldConfig{front: Config{ReportAddresses: func() Reporting {
		looks.Add(1)
		return Reporting(mode.Load())
	}}, often: 10 * time.Millisecond})
	w.connected(1)
	w.address(true, "192.0.2.10/24")
	local := w.localAddress()
	from := looks.Load()
	w.eventually("two whole looks", func() bool { return looks.Load() >= from+3 })
	if told := w.told(); len(told) != 0 {
		t.Errorf("libxl was told %v", told)
	}
	mode.Store(int32(ReportAlways))
	w.wantTold(map[string]string{"ipv4/0": "192.0.2.10", "ipv6/0": local})
	if got := strings.Join(w.dev.Status().Reported, " "); got != "192.0.2.10 "+local {
		t.Errorf("status says %q", got)
	}
	mode.Store(int32(ReportNever))
	w.wantTold(map[string]string{})
}

func TestNoMoreAddressesAreToldThanXenstoreHasRoomFor(t *testing.T) {
	var many []net.IP
	for i := range 100 {
		many = append(many, net.IPv4(10, 0, 0, byte(i)), net.ParseIP("2001:db8::"+strconv.Itoa(i)))
	}
	nodes := reportNodes(many)
	if len(nodes) != 2*maxReported || nodes["ipv4/15"] != "10.0.0.15" || nodes["ipv6/15"] != "2001:db8::15" {
		t.Errorf("%d nodes: %v", len(nodes), nodes)
	}
}
