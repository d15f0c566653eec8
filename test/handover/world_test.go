package handover

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const (
	guest    = xen.DomID(1)
	guestTAP = "xnf0"
	bridge   = "br0"
	// queueLen is how many frames a TAP keeps while nobody reads it: ten seconds of a
	// stream, for a machine that is slow to end a process and to start the next.
	queueLen = 50_000
)

func bridgeMAC() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, 1} }

// world is an embedded Xen with a netback in this process, whose TAP is a port of a
// bridge in a namespace of its own; a guest's namespace, for the daemons; and a holder.
type world struct {
	t        *testing.T
	programs programs
	dir      string
	server   *xensim.Server
	front    *space // the guest's
	back     *space // where the bridge is
	guestIP  netip.Addr
	backIP   netip.Addr
	vif      xensim.VifConfig
	dom      xen.DomID // the guest's number now
	queues   int
	arp      bool // neighbours are asked for, as on a link that goes away
	netback  *backend
	holder   *process
	started  []*process
}

// backend is a netback that serves.
type backend struct {
	*netback.Backend
	kill func() // it is gone, and its nodes stay as they are
}

// newWorld has a vif with so many queues, and nobody who serves it yet.
func newWorld(t *testing.T, p programs, queues int) *world {
	t.Helper()
	return newWorldOf(t, p, queues, 0)
}

// newWorldOf has its netback in another domain.
func newWorldOf(t *testing.T, p programs, queues int, driver xen.DomID) *world {
	t.Helper()
	w := &world{
		t: t, programs: p, dir: t.TempDir(), dom: guest, queues: queues,
		guestIP: netip.MustParseAddr("10.77.0.2"), backIP: netip.MustParseAddr("10.77.0.1"),
		vif: xensim.VifConfig{Frontend: guest, Backend: driver, MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1}, Bridge: bridge, Script: "vif-bridge"},
	}
	var err error
	w.server, err = xensim.New(xensim.Options{Dir: w.dir, AllowRaise: true})
	must(t, err)
	t.Cleanup(func() { w.server.Close() })
	must(t, w.server.Listen())
	w.front, w.back = newSpace(t), newSpace(t)
	must(t, w.back.bridge(bridge, bridgeMAC(), net.IP(w.backIP.AsSlice())))
	must(t, xensim.AttachVif(t.Context(), w.server.Toolstack(), w.vif))
	w.netback = w.startBackend(driver)
	w.holder = run(t, w.front, nil, p.plain, "hold", "--socket", w.holdSocket(), "--log-format", "json")
	t.Cleanup(func() {
		for _, pr := range append(w.started, w.holder) {
			pr.cmd.Process.Kill()
			<-pr.ended
			pr.log.Close()
		}
		if t.Failed() {
			for _, pr := range w.started[max(0, len(w.started)-3):] {
				t.Logf("process %d logged:\n%s", pr.cmd.Process.Pid, pr.text())
			}
			t.Logf("the holder logged:\n%s", w.holder.text())
		}
	})
	w.awaitHolder()
	return w
}

// startBackend makes domain dom a driver domain.
func (w *world) startBackend(dom xen.DomID) *backend {
	w.t.Helper()
	conn, err := w.server.Connect(dom)
	must(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	offer := netback.LinuxFeatures()
	offer.MaxQueues = w.queues
	b := &backend{Backend: netback.New(conn, netback.Options{
		Features: &offer,
		NewPort:  func(v netback.VifInfo) (netback.Port, error) { return w.port(v) },
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := b.Serve(ctx); err != nil {
			w.t.Errorf("netback of domain %d: %v", dom, err)
		}
	}()
	b.kill = func() {
		cancel()
		<-served
		conn.Close()
	}
	w.t.Cleanup(b.kill)
	return b
}

// port is netback's interface and its hotplug script.
func (w *world) port(v netback.VifInfo) (port *netback.TAPPort, err error) {
	err = w.back.Do(func() (err error) {
		port, err = netback.NewTAPPort(tap.Config{Name: v.Name, MTU: v.MTU, TxQueueLen: queueLen})
		return err
	})
	if err == nil {
		err = w.back.enslave(v.Name, bridge)
	}
	return port, err
}

// backVif is the vif as netback has it now.
func (w *world) backVif() *netback.Vif {
	w.t.Helper()
	v, err := w.netback.Vif(w.deadline(), netback.VifID{Frontend: w.dom, Device: 0})
	must(w.t, err)
	return v
}

func (w *world) deadline() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) holdSocket() string    { return filepath.Join(w.dir, "hold.sock") }
func (w *world) controlSocket() string { return filepath.Join(w.dir, "control.sock") }

// args are what the daemon is started with.
func (w *world) args() []string {
	return []string{"run", "--xen", w.dir, "--domid", fmt.Sprint(guest), "--vif", "0", "--tap", guestTAP,
		"--queues", strconv.Itoa(w.queues), "--txqueuelen", strconv.Itoa(queueLen), "--control", w.controlSocket(),
		"--holder", w.holdSocket(), "--log-format", "json"}
}

// start starts a daemon.
func (w *world) start(program string, env ...string) *process {
	w.t.Helper()
	p := run(w.t, w.front, env, program, w.args()...)
	w.started = append(w.started, p)
	return p
}

// connected starts the first daemon, and gives its TAP an address.
func (w *world) connected(program string) *process {
	w.t.Helper()
	p := w.start(program)
	p.await(logConnected)
	must(w.t, w.front.Address(guestTAP, net.IP(w.guestIP.AsSlice())))
	must(w.t, w.backVif().WaitConnected(w.deadline()))
	w.warm()
	if !w.arp {
		// Linux drops what waits for a neighbour that is asked for in vain, as in a batch
		// that a kill costs: that would be counted as ours.
		must(w.t, w.front.neighbour(guestTAP, w.backIP, bridgeMAC()))
		must(w.t, w.back.neighbour(bridge, w.guestIP, w.vif.MAC))
	}
	w.announced()
	w.settleFrames()
	return p
}

// announced waits until the daemon has announced every address as often as it does: these
// frames come from no TAP.
func (w *world) announced() {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		addresses, all := w.front.announceable(w.t, guestTAP)
		_, vif := w.status()
		behind := strings.Join(vif.Stations, " ") + " "
		for _, a := range addresses {
			all = all && strings.Contains(behind, " "+a+" ")
		}
		if all && vif.Announcing == 0 {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("addresses %q, announced %q, %d to come", addresses, vif.Stations, vif.Announcing)
		}
	}
}

// warm waits until packets go both ways: neighbours are known then, and the kernel has
// seen the carriers.
func (w *world) warm() {
	w.t.Helper()
	out := newStream(w.t, "first from the guest", w.front, w.back, w.backIP, 7003)
	in := newStream(w.t, "first to the guest", w.back, w.front, w.guestIP, 7004)
	for _, s := range []*stream{out, in} {
		s.lossy = true
		s.start(0)
		s.settle()
		s.halt()
		s.finish()
		s.close()
	}
}

// next starts the daemon that goes on, and waits until it does.
func (w *world) next(program string, env ...string) *process {
	w.t.Helper()
	p := w.start(program, env...)
	if got := p.await(logTakenOver, logConnected, logRefused); got != logTakenOver {
		w.t.Fatalf("the next process logged %q instead of taking over:\n%s", got, p.text())
	}
	return p
}

// awaitHolder waits until a holder answers.
func (w *world) awaitHolder() {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c, err := hold.Dial(w.deadline(), w.holdSocket())
		if err == nil {
			must(w.t, c.Close())
			return
		}
		if time.Now().After(end) {
			w.t.Fatal(err)
		}
	}
}

// held lists what the holder has: keys, and "parked" for each that is.
func (w *world) held() []string {
	w.t.Helper()
	c, err := hold.Dial(w.deadline(), w.holdSocket())
	must(w.t, err)
	defer c.Close()
	entries, err := c.List(w.deadline())
	must(w.t, err)
	var keys []string
	for _, e := range entries {
		if e.Parked != "" {
			keys = append(keys, "parked")
		} else {
			keys = append(keys, e.Key)
		}
	}
	slices.Sort(keys)
	return keys
}

// frontState is the vif's state node, as the guest has it.
func (w *world) frontState() string {
	w.t.Helper()
	v, err := w.server.Toolstack().Read(w.deadline(), xensim.FrontendPath(w.dom, 0)+"/state")
	must(w.t, err)
	return v
}

// wantNothingLeft checks what must be so after a stop.
func (w *world) wantNothingLeft(parked int) {
	w.t.Helper()
	if w.front.has(guestTAP) {
		w.t.Errorf("TAP %s is left", guestTAP)
	}
	if g := w.server.GrantsInUse(w.dom); len(g) > 0 {
		w.t.Errorf("%d grants are left, the first is %+v", len(g), g[0])
	}
	if p := w.server.PortsInUse(w.dom); len(p) > 0 {
		w.t.Errorf("event channels are left: %+v", p)
	}
	if k := w.held(); !slices.Equal(k, slices.Repeat([]string{"parked"}, parked)) {
		w.t.Errorf("the holder has %v, want %d parked bundles", k, parked)
	}
	if st := w.frontState(); st != "1" {
		w.t.Errorf("the vif's state is %s, want 1", st)
	}
}

// stop ends the last daemon as SIGTERM does.
func (w *world) stop(p *process) {
	w.t.Helper()
	p.end(unix.SIGTERM)
	w.wantNothingLeft(0)
}

// lostPortsAreKept checks that no event channel from before a restore was unbound or
// closed. To notify one can happen until the daemon hears of the restore, and is a
// spurious event.
func (w *world) lostPortsAreKept() {
	w.t.Helper()
	for _, use := range w.server.LostPortUses() {
		if !strings.Contains(use, "notify of port") {
			w.t.Errorf("a port was not only kept: %s", use)
		}
	}
}

// wait waits until cond is true.
func (w *world) wait(what string, cond func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: not within %s", what, patience)
		}
	}
}
