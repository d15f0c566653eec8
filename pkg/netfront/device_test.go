package netfront

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// roundTrip sends frames of many sizes both ways and wants each whole, once and in
// order.
func (w *world) roundTrip(largest int) {
	w.t.Helper()
	sizes := []int{14, 15, 59, 60, 64, 128, 129, 500, 1514, 1518}
	for n := 4000; n < largest; n += 4093 {
		sizes = append(sizes, n)
	}
	sizes = append(sizes, largest)
	for i, n := range sizes {
		if n > largest {
			continue
		}
		w.send(tap.VirtioHeader{}, mark(max(n, 14), i))
	}
	for i, n := range sizes {
		if n > largest {
			continue
		}
		if got := w.fromGuest(markPrefix); !bytes.Equal(got.Frame, mark(n, i)) {
			w.t.Fatalf("guest to backend: frame %d of %d bytes came as %d bytes", i, n, len(got.Frame))
		}
	}
	// A TAP wants 14 bytes, and the kernel pads nothing on this way.
	for i, n := range sizes {
		if n > largest {
			continue
		}
		w.check(w.port.Send(i%w.port.Queues(), tap.VirtioHeader{}, mark(n, i)))
		if _, got := w.receive(markPrefix); !bytes.Equal(got, mark(n, i)) {
			w.t.Fatalf("backend to guest: frame %d of %d bytes came as %d bytes", i, n, len(got))
		}
	}
}

func TestFramesFlowUnderEveryAgreement(t *testing.T) {
	type agreementCase struct {
		name    string
		front   Features
		back    func(*netback.Features)
		queues  int
		mtu     int
		largest int
	}
	all := AllFeatures()
	cases := []agreementCase{
		{name: "everything", front: all, queues: 1},
		{name: "two queues", front: all, queues: 2},
		{name: "four queues", front: all, queues: 4, back: func(f *netback.Features) { f.MaxQueues = 4 }},
		{name: "more queues than offered", front: all, queues: 4, back: func(f *netback.Features) { f.MaxQueues = 2 }},
		{name: "no multi-queue", front: all, queues: 2, back: func(f *netback.Features) { f.MaxQueues = 0 }},
		{name: "one channel, backend's", front: all, queues: 2, back: func(f *netback.Features) { f.SplitChannels = false }},
		{name: "one channel, ours", front: features(func(f *Features) { f.SplitChannels = false }), queues: 2},
		{name: "no sg, backend's", front: all, queues: 1, back: func(f *netback.Features) { f.SG = false }, largest: 1514},
		{name: "no sg, ours", front: features(func(f *Features) { f.SG = false }), queues: 1, largest: 1514},
		{name: "no csum", front: features(func(f *Features) { f.Csum = false }), queues: 1},
		{name: "no ipv6 csum", front: all, queues: 1, back: func(f *netback.Features) { f.CsumIPv6 = false }},
		{name: "no gso", front: all, queues: 1, back: func(f *netback.Features) { f.GSOv4, f.GSOv6 = false, false }},
		{name: "nothing", front: Features{SplitChannels: true}, queues: 1, largest: 1514},
		{name: "jumbo", front: all, queues: 2, mtu: 9000},
		{name: "largest MTU", front: all, queues: 1, mtu: maxMTU},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			back := netback.LinuxFeatures()
			if c.back != nil {
				c.back(&back)
			}
			w := newWorld(t, worldConfig{
				back:  netback.Options{Features: &back},
				front: Config{Features: c.front, Queues: c.queues, MTU: c.mtu},
			})
			w.connected(1)
			largest := c.largest
			if largest == 0 {
				largest = max(c.mtu, defaultMTU) + tap.EthernetHeader
			}
			w.roundTrip(largest)
			want := min(c.queues, max(1, back.MaxQueues))
			if n := len(w.dev.Status().Queues); n != want || w.vif.Queues() != want {
				t.Errorf("%d queues, netback has %d, want %d", n, w.vif.Queues(), want)
			}
			for _, q := range w.dev.Status().Queues {
				for _, m := range []MapCounts{q.Tx.Maps, q.Rx.Maps} {
					if m.Free+m.Loaded+m.InFlight+m.Quarantined != m.Created || m.Created != fullMaps {
						t.Errorf("queue %d: maps %+v", q.Number, m)
					}
				}
			}
		})
	}
}

// As Mirage's up to 2.1.7: no split channels, one queue, no segmentation, and the whole frame's size in
// the first slot.
func TestFramesOfSeveralPagesComeFromABackendLikeMirages(t *testing.T) {
	w := newWorld(t, worldConfig{back: netback.Options{
		Features: &netback.Features{SG: true, RxCopy: true}, RxFirstWhole: true, RemoveOnClose: true,
	}, front: Config{MTU: 16000}})
	w.connected(1)
	w.roundTrip(16014)
	if lost := w.dev.Status().Totals[0].Rx; lost["drop_malformed"] != 0 {
		t.Errorf("%v", lost)
	}
}

func TestStoreConflictsAreRetried(t *testing.T) {
	w := newWorld(t, worldConfig{offline: true, xen: xensim.Options{EventBeforeAck: true}})
	w.server.FailCommits(5)
	w.backend(worldConfig{})
	w.connected(1)
	w.roundTrip(1514)
}

// The network sends to the address that it was told last: that must be the one that the
// guest's kernel takes frames for.
func TestAddressThatChangesWhileConnectedIsAnnounced(t *testing.T) {
	log, logs := observed(zap.WarnLevel)
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}, front: Config{Logger: log}})
	w.connected(1)
	if s := w.dev.Status(); s.LinkMAC != "" || s.MAC != guestMAC.String() {
		t.Errorf("the TAP has address %q, the vif %q", s.LinkMAC, s.MAC)
	}
	other, ip := net.HardwareAddr{2, 0, 0, 0, 0, 9}, net.IP{10, 9, 8, 7}
	links := here(t)
	giveAddress(t, links, w.link(), "10.9.8.7/24")
	w.awaitFrames(announceRounds, gratuitousARP(guestMAC, ip))
	w.check(netlink.LinkSetHardwareAddr(w.link(), other))
	w.awaitFrames(announceRounds, gratuitousARP(other, ip))
	w.check(w.vif.Rebind(w.deadline()))
	w.connected(2)
	w.awaitFrames(announceRounds, gratuitousARP(other, ip))
	if s := w.dev.Status(); s.LinkMAC != other.String() || s.MAC != guestMAC.String() {
		t.Errorf("the TAP has address %q, the vif %q", s.LinkMAC, s.MAC)
	}
	if n := logs.FilterField(event(EventOtherMAC)).Len(); n != 1 {
		t.Errorf("%d lines about it: %v", n, logs.All())
	}
}

// With one event channel for both directions, netback can lose its first EOI: it
// says Connected, sends to us, and never looks at what we send.
func TestLostEOIIsNoticedAndSurvived(t *testing.T) {
	w := newWorld(t, worldConfig{
		front:   Config{Features: features(func(f *Features) { f.SplitChannels = false })},
		prepare: func(v *netback.Vif) { v.Faults().Inject(netback.LostEOI, 1) },
	})
	w.connected(1)
	w.send(tap.VirtioHeader{}, mark(100, 1))
	w.connected(2)
	w.send(tap.VirtioHeader{}, mark(200, 2))
	for {
		// The first frame may come with the second, from the TAP's queue, or be lost.
		if r := w.fromGuest(markPrefix); bytes.Equal(r.Frame, mark(200, 2)) {
			break
		}
	}
	w.roundTrip(1514)
}

// A backend that answers nothing for a while, and then everything in any order,
// loses nothing beyond the TAP's own queue, and no page is reused early.
func TestNothingIsLostWhileTheBackendHoldsItsAnswers(t *testing.T) {
	hold := 5 * time.Second
	if testing.Short() {
		hold = 500 * time.Millisecond
	}
	w := newWorld(t, worldConfig{})
	w.connected(1)
	w.vif.Faults().HoldTx(hold)
	rnd := rand.New(rand.NewPCG(1, 1))
	const frames = 1000 // what rings and the TAP's queue hold together
	for i := range frames {
		w.send(tap.VirtioHeader{}, mark(60+rnd.IntN(1400), i))
	}
	w.vif.Faults().HoldTx(0)
	rnd = rand.New(rand.NewPCG(1, 1))
	want := map[string]bool{}
	for i := range frames {
		want[string(mark(60+rnd.IntN(1400), i))] = true
	}
	for len(want) > 0 {
		r := w.fromGuest(markPrefix)
		if !want[string(r.Frame)] {
			t.Fatalf("a frame of %d bytes came twice or changed; %d are missing", len(r.Frame), len(want))
		}
		delete(want, string(r.Frame))
	}
	if d := w.dev.Status().Link.TxDropped; d != 0 {
		t.Errorf("the TAP dropped %d frames", d)
	}
}

func TestEveryViolationEndsTheConnectionAndTheNextOneWorks(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault netback.Fault
		rx    bool
	}{
		{"tx id out of range", netback.TxIDOutOfRange, false},
		{"tx id not in flight", netback.TxIDNotInFlight, false},
		{"tx id twice", netback.TxIDTwice, false},
		{"tx producer overflow", netback.TxOverflow, false},
		{"rx producer overflow", netback.RxOverflow, true},
		{"rx extras without end", netback.RxExtraEndless, true},
	} {
		if raceEnabled && strings.HasSuffix(c.name, "overflow") {
			continue // a backend that writes slots which are not its own is a data race
		}
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}})
			w.connected(1)
			w.vif.Faults().Inject(c.fault, netback.Always)
			for i := 0; w.dev.Status().Connects < 2; i++ {
				if c.rx {
					_ = w.port.Send(0, tap.VirtioHeader{}, mark(100, i)) // no queue while it reconnects
				} else {
					for j := range 8 { // several in flight: an id that is used again at once is no violation
						w.send(tap.VirtioHeader{}, mark(100, i+j))
					}
				}
				time.Sleep(5 * time.Millisecond)
				if i > 4000 {
					t.Fatalf("still connected: %+v", w.dev.Status())
				}
			}
			w.vif.Faults().Clear()
			if w.vif.Fatal() != nil {
				w.check(w.vif.Rebind(w.deadline())) // it has tripped over its own ring
			}
			w.connected(2)
			w.port.Discard()
			// A fault that was taken before Clear can end this connection, too, with the
			// frame that it had in hand.
			for tries := 0; !w.arrives(mark(777, 9999)); tries++ {
				if tries == 20 {
					t.Fatalf("no frame arrives: %+v", w.dev.Status())
				}
			}
		})
	}
}

// arrives sends a frame and tells whether the backend gets it within a second.
func (w *world) arrives(frame []byte) bool {
	w.t.Helper()
	w.send(tap.VirtioHeader{}, frame)
	ctx, cancel := context.WithTimeout(w.deadline(), time.Second)
	defer cancel()
	for {
		r, err := w.vif.MemoryPort().Receive(ctx)
		if err != nil {
			return false
		}
		if bytes.Equal(r.Frame, frame) {
			return true
		}
	}
}

func TestBadFramesFromTheBackendAreDroppedAndTheRestGoesOn(t *testing.T) {
	faults := map[string]netback.Fault{
		"offset too large": netback.RxOffsetTooLarge, "status too large": netback.RxStatusTooLarge,
		"error": netback.RxStatusError, "grant error": netback.RxStatusGrant, "no data": netback.RxStatusZero,
		"short": netback.RxShort, "extra type": netback.RxExtraType,
		"gso unasked":       netback.RxGSOUnasked,
		"csum_blank on all": netback.RxCsumBlankOnAll, "wrong id": netback.RxIDWrong,
	}
	w := newWorld(t, worldConfig{})
	w.connected(1)
	i := 0
	for name, f := range faults {
		w.vif.Faults().Inject(f, 1)
		w.check(w.port.Send(0, tap.VirtioHeader{}, mark(300, i)))
		w.check(w.port.Send(0, tap.VirtioHeader{}, mark(1000, i+1)))
		for {
			_, got := w.receive(markPrefix)
			if bytes.Equal(got, mark(1000, i+1)) {
				break
			}
			if name != "wrong id" || !bytes.Equal(got, mark(300, i)) {
				t.Fatalf("%s: a frame of %d bytes came through", name, len(got))
			}
		}
		w.eventually(name+" to happen", func() bool { return w.vif.Faults().Left(f) == 0 })
		i += 2
	}
	if n := w.dev.Status().Connects; n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestEventStormIsThrottledAndFramesStillFlow(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	for range 40 {
		w.vif.Storm(50)
		time.Sleep(2 * time.Millisecond)
	}
	w.roundTrip(1514)
	q := w.dev.Status().Queues[0]
	if n := q.Tx.Counters["events_spurious"] + q.Rx.Counters["events_spurious"]; n == 0 {
		t.Error("no spurious event counted")
	}
}

func TestRebindOfTheBackendKeepsTheRings(t *testing.T) {
	// With a hotplug script, since the driver's end removes hotplug-status.
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}})
	w.connected(1)
	w.roundTrip(1514)
	for range 3 {
		w.check(w.vif.Rebind(w.deadline()))
		w.connected(1)
		w.roundTrip(1514)
	}
	if s := w.dev.Status(); s.Queues[0].Tx.Ring.ReqProd < 30 {
		t.Errorf("the rings were made anew: %+v", s.Queues[0].Tx.Ring)
	}
}

func TestDetachedVifIsTakenUpAgainOnTheSameTAP(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	index := w.dev.Status().IfIndex
	w.check(xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, 0, 10*time.Second))
	w.eventually("the grants to end", func() bool { return len(w.server.GrantsInUse(guestDom)) == 0 })
	w.check(xensim.AttachVif(w.deadline(), w.server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: driverDom, MAC: guestMAC}))
	w.eventually("the second connection", func() bool { return w.dev.Status().Connects == 2 })
	if s := w.dev.Status(); s.IfIndex != index {
		t.Errorf("ifindex %d became %d", index, s.IfIndex)
	}
	w.vif = nil
}

func TestStopIsPromptWithADeadBackend(t *testing.T) {
	for name, kill := range map[string]func(w *world){
		"never there":      func(w *world) {},
		"store that hangs": func(w *world) { w.server.DeadStore(true) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldConfig{offline: true})
			w.eventually("the first write", func() bool { return w.dev.Status().State != "" })
			kill(w)
			began := time.Now()
			w.stop(nil)
			select {
			case err := <-w.ran:
				w.ran <- err
			case <-time.After(20 * time.Second):
				t.Fatal("Run does not end")
			}
			t.Logf("stopped in %v", time.Since(began))
			w.server.DeadStore(false)
		})
	}
}

// On an emulated machine that is busy, xenstored takes that long for each request.
func TestStopWithASlowStoreLeavesTheVifAsTheToolstackMadeIt(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	w.server.SlowStore(300 * time.Millisecond)
	w.stop(nil)
	select {
	case err := <-w.ran:
		w.ran <- err
	case <-time.After(60 * time.Second):
		t.Fatal("Run does not end")
	}
	w.server.SlowStore(0)
	dir := xensim.FrontendPath(guestDom, 0)
	if st, err := w.server.Toolstack().Read(w.deadline(), dir+"/state"); err != nil || st != "1" {
		t.Errorf("state %q, %v", st, err)
	}
	keys, err := w.server.Toolstack().Directory(w.deadline(), dir)
	w.check(err)
	for _, k := range keys {
		if slices.Contains(allKeys, k) {
			t.Errorf("%s is left", k)
		}
	}
}

func TestGrantBudget(t *testing.T) {
	for _, c := range []struct {
		limit, queues, want, maps int
		raise                     bool
	}{
		{limit: 1024, queues: 2, want: 1, maps: 256},
		{limit: 1028, queues: 2, want: 2, maps: 256},
		{limit: 1024, queues: 2, want: 2, maps: 256, raise: true},
		{limit: 300, queues: 2, want: 1, maps: 149},
	} {
		t.Run(fmt.Sprintf("limit=%d,raise=%v", c.limit, c.raise), func(t *testing.T) {
			w := newWorld(t, worldConfig{
				xen:   xensim.Options{GrantLimit: c.limit, AllowRaise: c.raise},
				front: Config{Queues: c.queues},
			})
			w.connected(1)
			w.roundTrip(1514)
			s := w.dev.Status()
			if len(s.Queues) != c.want || int(s.Queues[0].Tx.Maps.Created) != c.maps {
				t.Errorf("%d queues of %d maps, want %d of %d", len(s.Queues), s.Queues[0].Tx.Maps.Created, c.want, c.maps)
			}
			if n := len(w.server.GrantsInUse(guestDom)); n != s.Grants {
				t.Errorf("status says %d grants, Xen %d", s.Grants, n)
			}
		})
	}
	if _, err := plan(1, 73); err == nil {
		t.Error("a limit of 73 pages accepted")
	}
}
