package netfront

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// clingy is a second user of the backend's domain, who maps what the guest grants and does not
// let go.
type clingy struct {
	*xensim.Connection
	w    *world
	maps map[xen.GrantRef]*xensim.Mapping
}

func newClingy(w *world) *clingy {
	conn, err := w.server.Connect(driverDom)
	w.check(err)
	c := &clingy{conn, w, map[xen.GrantRef]*xensim.Mapping{}}
	w.t.Cleanup(func() { // before the world ends
		c.letGo()
		w.check(conn.Close())
	})
	return c
}

// cling maps every page that the guest grants now and that is not mapped yet, and tells how
// many are mapped then.
func (c *clingy) cling() int {
	for _, g := range c.w.server.GrantsInUse(guestDom) {
		if c.maps[g.Ref] == nil && g.Peer == driverDom {
			m, err := c.MapGrant(guestDom, g.Ref, false)
			c.w.check(err)
			c.maps[g.Ref] = m
		}
	}
	return len(c.maps)
}

func (c *clingy) letGo() {
	for ref, m := range c.maps {
		c.w.check(m.Unmap())
		delete(c.maps, ref)
	}
}

// violate has the backend break the protocol once, and waits for connection number n.
func (w *world) violate(n uint64) {
	w.t.Helper()
	w.vif.Faults().Inject(netback.TxIDOutOfRange, 1)
	before := w.dev.Status().Ended["violation"]
	w.eventually("the violation", func() bool {
		w.send(tap.VirtioHeader{}, mark(100, 1))
		return w.dev.Status().Ended["violation"] > before
	})
	w.dev.Retry() // which ends the back-off
	w.connected(n)
}

// A grant that is mapped cannot be ended: its page and its place in the guest's grant table are
// lost until the backend lets go. In the end nothing in the guest could grant any more.
func TestBackendThatKeepsItsMappingsCannotUseUpTheGrantTable(t *testing.T) {
	w := newWorld(t, worldConfig{xen: xensim.Options{GrantLimit: 1 << 16}, vif: xensim.VifConfig{Script: "vif-bridge"}, front: Config{Queues: 2}})
	w.connected(1)
	c := newClingy(w)
	first := len(w.server.GrantsInUse(guestDom))
	for n := range uint64(8) {
		c.cling()
		w.violate(n + 2)
	}
	if now := len(w.server.GrantsInUse(guestDom)); now != first || w.dev.Status().Grants != first {
		t.Errorf("%d grants after 9 connections, %d after one; status says %d", now, first, w.dev.Status().Grants)
	}
	for _, g := range w.server.GrantsInUse(guestDom) {
		if g.Deferred {
			t.Fatalf("grant %d was given back while it is mapped", g.Ref)
		}
	}
	if !w.arrives(mark(700, 1)) {
		t.Error("no frame arrives")
	}
}

// The last backend may have the pages mapped still.
func TestPagesOfTheLastConnectionAreZeroed(t *testing.T) {
	g := &granted{grants: newHeapGrants()}
	p, err := g.pair(0, minMaps)
	if err != nil {
		t.Fatal(err)
	}
	for _, pages := range []xen.Pages{p.rings, p.tx, p.rx} {
		copy(pages.Bytes(), patterned(len(pages.Bytes()), 1))
	}
	again, err := g.pair(0, fullMaps)
	if err != nil || again != p || len(g.pairs) != 1 {
		t.Fatalf("other pages: %+v, %+v, %v", p, again, err)
	}
	for name, pages := range map[string]xen.Pages{"rings": p.rings, "tx": p.tx, "rx": p.rx} {
		if !bytes.Equal(pages.Bytes(), make([]byte, len(pages.Bytes()))) {
			t.Errorf("%s: the pages have what the last connection left there", name)
		}
	}
}

func TestPagesOfTheLastConnectionStayAsTheyWereGranted(t *testing.T) {
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}})
	w.connected(1)
	w.roundTrip(1514)
	before := w.server.GrantsInUse(guestDom)
	w.check(w.vif.ShowState(w.deadline(), netif.StateClosing))
	w.connected(2)
	after := w.server.GrantsInUse(guestDom)
	if len(after) != len(before) {
		t.Fatalf("%d grants, %d before", len(after), len(before))
	}
	readOnly := 0
	for i := range after {
		if after[i].Ref != before[i].Ref || after[i].ReadOnly != before[i].ReadOnly || after[i].Peer != before[i].Peer {
			t.Errorf("grant %+v was %+v", after[i], before[i])
		}
		if after[i].ReadOnly {
			readOnly++
		}
	}
	if readOnly != fullMaps {
		t.Errorf("%d pages are read-only to the backend, want those of tx", readOnly)
	}
	w.roundTrip(1514)
}

// A backend that writes into the ring pages that it has kept does what any backend can: the
// connection is ended.
func TestOldMappingOfARingBreaksNoMoreThanTheConnection(t *testing.T) {
	if raceEnabled {
		t.Skip("a page that two write is a data race")
	}
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}})
	w.connected(1)
	conn, err := w.server.Connect(driverDom)
	w.check(err)
	w.dev.mu.Lock()
	ref := w.dev.view.pairs[0].rings.Refs()[0]
	w.dev.mu.Unlock()
	m, err := conn.MapGrant(guestDom, ref, true)
	w.check(err)
	t.Cleanup(func() { w.check(m.Unmap()); w.check(conn.Close()) })
	w.check(w.vif.ShowState(w.deadline(), netif.StateClosing))
	w.connected(2)
	w.roundTrip(1514)
	m.Bytes()[8]++ // rsp_prod
	m.Bytes()[9]++
	w.eventually("the violation", func() bool {
		w.dev.Kick()
		return w.dev.Status().Ended["violation"] > 0
	})
	if w.vif.Fatal() != nil {
		w.check(w.vif.Rebind(w.deadline()))
	}
	w.connected(3)
	if !w.arrives(mark(700, 1)) {
		t.Error("no frame arrives")
	}
}

// The toolstack's hands on the vif are none of the backend's doing, so the pages go then: to
// another domain they could not be granted.
func TestPagesAreGivenBackWhenTheBackendsDomainChanges(t *testing.T) {
	const other = driverDom + 1
	log, logs := observed(zap.WarnLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}})
	w.connected(1)
	c := newClingy(w)
	kept := c.cling()
	ctx := w.deadline()
	w.check(xensim.DetachVif(ctx, w.server.Toolstack(), guestDom, 0, 10*time.Second))
	w.check(xensim.AttachVif(ctx, w.server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: other, MAC: guestMAC}))
	conn, err := w.server.Connect(other)
	w.check(err)
	b := netback.New(conn, netback.Options{})
	serve, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(serve) }()
	t.Cleanup(func() { cancel(); <-served; w.check(conn.Close()) })
	w.vif, err = b.Vif(ctx, netback.VifID{Frontend: guestDom})
	w.check(err)
	w.connected(2)
	deferred, granted := 0, 0
	for _, g := range w.server.GrantsInUse(guestDom) {
		switch {
		case g.Deferred && g.Peer == driverDom:
			deferred++
		case g.Peer == other:
			granted++
		default:
			t.Errorf("%+v", g)
		}
	}
	if deferred != kept || granted != pairPages(fullMaps) {
		t.Errorf("%d grants put off of %d, %d to the new backend", deferred, kept, granted)
	}
	if n := logs.FilterField(event(EventPagesLeft)).Len(); n != 1 {
		t.Errorf("%d lines about pages that are left behind: %v", n, logs.All())
	}
	c.letGo()
}

// What this daemon leaves behind in the grant table has a limit, whatever the toolstack does.
func TestVifIsOffWhenBackendsKeepTooManyPages(t *testing.T) {
	log, logs := observed(zap.WarnLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}})
	w.connected(1)
	c := newClingy(w)
	replug := func() {
		t.Helper()
		ctx := w.deadline()
		w.check(xensim.DetachVif(ctx, w.server.Toolstack(), guestDom, 0, 10*time.Second))
		w.eventually("the pages to be given back", func() bool { return w.dev.Status().Grants == 0 })
		w.check(xensim.AttachVif(ctx, w.server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: driverDom, MAC: guestMAC}))
		w.newBackend()
	}
	plugs := uint64(1)
	for w.dev.Status().Off == "" {
		if plugs > 2*maxLeft/uint64(pairPages(fullMaps)) {
			t.Fatalf("%d grants, and the vif is not off", len(w.server.GrantsInUse(guestDom)))
		}
		c.cling()
		replug()
		plugs++
		w.eventually("a connection, or its end", func() bool {
			s := w.dev.Status()
			return s.Off != "" || s.Connects == plugs && s.State == "Connected"
		})
	}
	if n, most := len(w.server.GrantsInUse(guestDom)), maxLeft+pairPages(fullMaps); n > most {
		t.Errorf("%d grants, at most %d may be left behind", n, most)
	}
	if s := w.dev.Status(); !strings.Contains(s.Reason, "pages mapped that were given back") || s.Grants != 0 {
		t.Errorf("%+v", s)
	}
	if n := logs.FilterField(event(EventOff)).Len(); n != 1 {
		t.Errorf("%d lines about it", n)
	}
	w.dev.Retry()
	w.connected(plugs)
	w.roundTrip(1514)
	c.letGo()
}

func TestMemoryAndGrantsAfterManyViolationsAreAsAfterOne(t *testing.T) {
	violations := uint64(300)
	if testing.Short() || raceEnabled {
		violations = 30
	}
	if *hostileViolations > 0 {
		violations = *hostileViolations
	}
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}})
	w.connected(1)
	w.violate(2)
	grants, ports, memory := len(w.server.GrantsInUse(guestDom)), len(w.server.PortsInUse(guestDom)), resident(t)
	for n := uint64(2); n <= violations; n++ {
		w.violate(n + 1)
		w.port.Discard() // the test's own memory
	}
	if g, p := len(w.server.GrantsInUse(guestDom)), len(w.server.PortsInUse(guestDom)); g != grants || p != ports {
		t.Errorf("%d grants and %d ports after %d violations, %d and %d after one", g, p, violations, grants, ports)
	}
	// What is lost at each would be a page at least.
	if now := resident(t); now > memory+8<<20 {
		t.Errorf("%d bytes resident after %d violations, %d after one", now, violations, memory)
	}
	if !w.arrives(mark(700, 1)) {
		t.Error("no frame arrives")
	}
}

// resident is this process's anonymous and shared memory in bytes.
func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// Another domain could read what was sent to the first.
func TestPagesOfOneDomainAreNotAnothers(t *testing.T) {
	grants := newHeapGrants()
	g := &granted{peer: driverDom, grants: grants}
	if _, err := g.pair(0, minMaps); err != nil {
		t.Fatal(err)
	}
	d := &Device{guest: &xen.Guest{Grants: grants}, log: zap.NewNop(), granted: g}
	if err := d.regrant(address{domid: driverDom + 1}); err != nil {
		t.Fatal(err)
	}
	if d.granted != nil || len(grants.pages) != 0 {
		t.Errorf("%d pages are granted", len(grants.pages))
	}
}
