package netfront

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// failing makes the n-th allocation of grants or event channels fail.
type failing struct {
	xen.Grants
	left int
}

// failingEvents counts with it.
type failingEvents struct {
	xen.Events
	f *failing
}

var errInjected = errors.New("injected")

func (f *failing) step() error {
	if f.left--; f.left == 0 {
		return errInjected
	}
	return nil
}

func (f *failing) Alloc(peer xen.DomID, n int, writable bool) (xen.Pages, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	return f.Grants.Alloc(peer, n, writable)
}

func (e failingEvents) Open() (xen.EventFile, error) {
	if err := e.f.step(); err != nil {
		return nil, err
	}
	file, err := e.Events.Open()
	return failingFile{file, e.f}, err
}

type failingFile struct {
	xen.EventFile
	f *failing
}

func (e failingFile) Bind(remote xen.DomID) (xen.Port, error) {
	if err := e.f.step(); err != nil {
		return 0, err
	}
	return e.EventFile.Bind(remote)
}

// The review's set-up leaked what it had when a later step failed, and its error
// paths destroyed queues that were half built.
func TestPairThatCannotBeMadeLeavesNothing(t *testing.T) {
	enterNamespace(t)
	server, err := xensim.New(xensim.Options{GrantLimit: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := server.Connect(guestDom)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	link, err := tap.Create(tap.Config{Name: "xnf%d"})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	queues, err := link.SetQueues(1)
	if err != nil {
		t.Fatal(err)
	}
	guest := conn.Guest()
	fds := descriptors(t)
	steps := 0
	for {
		steps++
		f := &failing{Grants: guest.Grants, left: steps}
		c := pairConfig{guest: &xen.Guest{Events: failingEvents{guest.Events, f}}, grants: f, features: AllFeatures()}
		g := &granted{grants: f}
		file, err := newStateFile(1)
		if err != nil {
			t.Fatal(err)
		}
		var p *pair
		pages, err := g.pair(0, fullMaps)
		if err == nil {
			p, err = newPair(c, 0, queues[0], file.memory(0), pages)
		}
		if err == nil {
			defer file.close()
		} else if err := file.close(); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			if err := errors.Join(p.close(), g.shrink(0)); err != nil {
				t.Fatal(err)
			}
			break
		}
		if err := g.shrink(0); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(err, errInjected) {
			t.Fatal(err)
		}
		if g, ports := server.GrantsInUse(guestDom), server.PortsInUse(guestDom); len(g) > 0 || len(ports) > 0 {
			t.Fatalf("step %d left %d grants and %d ports", steps, len(g), len(ports))
		}
		for fd, to := range descriptors(t) {
			if fds[fd] != to {
				t.Fatalf("step %d left descriptor %s %s", steps, fd, to)
			}
		}
	}
	if steps != 8 {
		t.Errorf("%d steps, 3 allocations, 2 files and 2 ports were expected to fail", steps-1)
	}
}

// Granted memory of the embedded Xen is a mapping, like that of gntalloc.
func TestConnectionsLeaveNoMapping(t *testing.T) {
	enterNamespace(t)
	server, err := xensim.New(xensim.Options{GrantLimit: 4096})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	ctx := context.Background()
	if err := xensim.AttachVif(ctx, server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: driverDom, MAC: guestMAC}); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, server: server}
	w.backend(worldConfig{})
	conn, err := server.Connect(guestDom)
	w.check(err)
	t.Cleanup(func() { conn.Close() })
	var before int
	for i := range 6 {
		w.dev, err = Open(ctx, conn.Guest(), Config{Queues: 2, Features: AllFeatures(), Logger: zap.NewNop()})
		w.check(err)
		run, cancel := context.WithCancel(ctx)
		ran := make(chan error, 1)
		go func() { ran <- w.dev.Run(run) }()
		w.connected(1)
		cancel()
		w.check(<-ran)
		w.check(w.dev.Close())
		w.eventually("every grant to end", func() bool { return len(server.GrantsInUse(guestDom)) == 0 })
		if i == 0 {
			before = sharedMappings(t)
		}
	}
	if after := sharedMappings(t); after > before {
		t.Errorf("%d shared mappings, %d after the first connection", after, before)
	}
}

// sharedMappings counts the shared mappings in /proc/self/maps.
func sharedMappings(t *testing.T) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasSuffix(f[1], "s") {
			n++
		}
	}
	return n
}

// The review followed a nil chain when a fragment came behind a bad first slot.
func TestRxFragmentsBehindABadFirstSlotAreDroppedWithIt(t *testing.T) {
	r := newRxRig(t, fullMaps)
	r.raw(netif.RxResponse{Status: -1, Flags: netif.RxMoreData})
	r.put(netif.RxMoreData, 0, patterned(4096, 1))
	r.put(0, 0, patterned(10, 2))
	good := patterned(500, 3)
	r.send(0, nil, 0, good)
	r.service()
	if len(r.out.frames) != 1 || !bytes.Equal(r.out.frames[0][tap.VirtioHeaderSize:], good) {
		t.Fatalf("%d frames", len(r.out.frames))
	}
}

// A rate-limited backend stops looking at the ring until its timer fires. That is no
// fault of the connection.
func TestRateLimitIsNotTakenForADeadBackend(t *testing.T) {
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Rate: "131072,200000"}, front: Config{NoShaping: true}})
	w.connected(1)
	const frames = 600
	for i := range frames {
		w.send(tap.VirtioHeader{}, mark(1500, i))
	}
	for i := range frames {
		if r := w.fromGuest(markPrefix); !bytes.Equal(r.Frame, mark(1500, i)) {
			t.Fatalf("frame %d was lost, changed or moved", i)
		}
	}
	if s := w.vif.Stats(); s.CreditWaits == 0 {
		t.Error("the limit never took effect")
	}
	if s := w.dev.Status(); s.Connects != 1 || s.Queues[0].Tx.Counters["parked"] == 0 {
		t.Errorf("%d connections, parked %d times", s.Connects, s.Queues[0].Tx.Counters["parked"])
	}
}

// Vifs that cannot be opened leave no TAP behind, and say what is wrong.
func TestOpenSaysWhatIsWrongAndLeavesNothing(t *testing.T) {
	enterNamespace(t)
	server, err := xensim.New(xensim.Options{HeapPages: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := server.Connect(guestDom)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := context.Background()
	cfg := Config{Features: AllFeatures(), Logger: zap.NewNop()}
	if _, err := Open(ctx, conn.Guest(), cfg); !errors.Is(err, ErrNoVif) {
		t.Errorf("no vif: %v", err)
	}
	dir := xensim.FrontendPath(guestDom, 0)
	if err := xensim.AttachVif(ctx, server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: driverDom, MAC: guestMAC}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ key, value, want string }{
		// Xen has 15 bits for it; what is above is no domain's, or Xen's own.
		"domid too large": {netif.KeyBackendID, "32768", `backend-id is "32768"`},
		"garbage MAC":     {netif.KeyMAC, "zz:zz", `mac is "zz:zz"`},
		"multicast MAC":   {netif.KeyMAC, "01:00:5e:00:00:01", "want a unicast Ethernet address"},
		"backend's domid": {netif.KeyBackendID, "-3", `backend-id is "-3"`},
	} {
		old, err := server.Toolstack().Read(ctx, dir+"/"+c.key)
		if err != nil {
			t.Fatal(err)
		}
		write := func(v string) {
			if err := server.Toolstack().Write(ctx, dir+"/"+c.key, v); err != nil {
				t.Fatal(err)
			}
		}
		write(c.value)
		if d, err := Open(ctx, conn.Guest(), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
			if err == nil {
				d.Close()
			}
		}
		write(old)
	}
	for _, bad := range []Config{{DevID: -1}, {MTU: 67}, {MTU: 65518}, {Queues: 65}, {TxQueueLen: -1}} {
		bad.Logger = cfg.Logger
		if d, err := Open(ctx, conn.Guest(), bad); err == nil {
			t.Errorf("%+v accepted", bad)
			d.Close()
		}
	}
	if _, err := os.Stat("/sys/class/net/xnf0"); err == nil {
		t.Error("a TAP is left")
	}
}

// A stub domain's frontend directory may have neither; the backend's has.
func TestAddressAndMTUAreTakenFromTheBackendIfNeedBe(t *testing.T) {
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{MTU: 4000}})
	w.connected(1)
	ctx := w.deadline()
	front := xensim.FrontendPath(guestDom, 0)
	for _, key := range []string{netif.KeyMAC, netif.KeyMTU} {
		w.check(w.server.Toolstack().Remove(ctx, front+"/"+key))
	}
	a, err := findVif(ctx, w.front.Store(), 0)
	w.check(err)
	id, err := readIdentity(ctx, w.front.Store(), a)
	w.check(err)
	if id.mac.String() != guestMAC.String() || id.mtu != 4000 {
		t.Errorf("%+v", id)
	}
}

// With one processor one goroutine serves both directions, though each has its
// event channel.
func TestOneProcessorServesBothDirections(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	w := newWorld(t, worldConfig{front: Config{Queues: 2}})
	w.connected(1)
	w.roundTrip(1514)
	w.dev.mu.Lock()
	n := len(w.dev.view.pairs[0].workers)
	w.dev.mu.Unlock()
	if n != 1 {
		t.Errorf("%d workers", n)
	}
}

func TestRemovedTAPEndsRunWithAnError(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	link, err := netlink.LinkByName(w.dev.Name())
	w.check(err)
	w.check(netlink.LinkDel(link))
	select {
	case err := <-w.ran:
		if !errors.Is(err, tap.ErrLinkGone) {
			t.Errorf("Run: %v", err)
		}
		w.ran <- nil
	case <-time.After(30 * time.Second):
		t.Fatal("Run goes on without a TAP")
	}
}

// An MTU that the administrator set by hand outlives a reconnect.
func TestReconnectKeepsTheMTUThatWasSetByHand(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	link, err := netlink.LinkByName(w.dev.Name())
	w.check(err)
	w.check(netlink.LinkSetMTU(link, 1400))
	w.check(w.vif.ShowState(w.deadline(), netif.StateClosing))
	w.connected(2)
	link, err = netlink.LinkByName(w.dev.Name())
	w.check(err)
	if mtu := link.Attrs().MTU; mtu != 1400 {
		t.Errorf("MTU %d", mtu)
	}
}
