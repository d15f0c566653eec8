package netfront

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// waits are for how long the Device said that it waits before it connects again.
func waits(logs *observer.ObservedLogs) (all []time.Duration) {
	for _, l := range logs.FilterMessage("disconnected").All() {
		all = append(all, l.ContextMap()["retry_in"].(time.Duration))
	}
	return all
}

// The node that says that a device is to go is the backend's to write. What it says there must
// not pass for a re-plug, after which connections begin at once again.
func TestBackOffGrowsWhateverTheBackendWritesInItsDirectory(t *testing.T) {
	for name, forge := range map[string]func(ctx context.Context, s xen.Store, node string) error{
		"online is missing": func(ctx context.Context, s xen.Store, node string) error { return s.Remove(ctx, node) },
		"online is 0":       func(ctx context.Context, s xen.Store, node string) error { return s.Write(ctx, node, "0") },
	} {
		t.Run(name, func(t *testing.T) {
			log, logs := observed(zap.InfoLevel)
			w := newWorld(t, worldConfig{offline: true, front: Config{Logger: log}})
			store, dir, ctx := w.backendStore(), xensim.BackendPath(driverDom, guestDom, 0), w.deadline()
			w.check(store.Write(ctx, dir+"/feature-rx-copy", "1"))
			w.check(forge(ctx, store, dir+"/"+netif.KeyOnline))
			// It takes part in each connection until that stands.
			answers := map[string]string{"1": "2", "4": "5", "5": "5", "6": "6"}
			w.eventually("the sixth end of a connection", func() bool {
				st, err := store.Read(ctx, xensim.FrontendPath(guestDom, 0)+"/"+netif.KeyState)
				w.check(err)
				w.check(store.Write(ctx, dir+"/"+netif.KeyState, answers[st]))
				return len(waits(logs)) == 6
			})
			all := waits(logs)
			// Doubled six times, and cut at random to a half at most.
			if last, least := all[5], backoffMin<<5/2; last < least {
				t.Errorf("waited %v: the last one is shorter than %v", all, least)
			}
		})
	}
}

// What the toolstack does shows in the vif's own directory, however fast it is.
func TestReplugEndsTheBackOff(t *testing.T) {
	log, logs := observed(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}})
	w.connected(1)
	for n := range uint64(8) {
		w.reattach(xensim.VifConfig{MAC: guestMAC})
		w.connected(n + 2)
	}
	// It doubles where an attempt meets a vif that is about to go; else it would by each time.
	if all := waits(logs); len(all) < 8 || all[len(all)-1] > 8*backoffMin {
		t.Errorf("waited %v", all)
	}
}

func TestBackOffAfterAViolationOnlyGrows(t *testing.T) {
	var s standing
	was := time.Duration(0)
	for n := range DefaultMaxViolations {
		s.Violations = n
		floor := s.floor()
		if floor < was || floor > backoffMax || n > 0 && n < 9 && floor != backoffMin<<(n-1) {
			t.Errorf("%v after %d violations, %v after one less", floor, n, was)
		}
		was = floor
	}
	if was != backoffMax {
		t.Errorf("%v in the end", was)
	}
}

// A violation, the evidence, and in the end nothing any more, until somebody says otherwise.
func TestVifIsOffAfterTooManyViolations(t *testing.T) {
	log, logs := observed(zap.InfoLevel)
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}, front: Config{Logger: log, MaxViolations: func() int { return 3 }}})
	w.connected(1)
	w.vif.Faults().Inject(netback.TxIDOutOfRange, netback.Always)
	w.eventually("the vif to be off", func() bool {
		if w.dev.Status().State == "Connected" {
			w.send(tap.VirtioHeader{}, mark(100, 1))
		}
		return w.dev.Status().Off != ""
	})
	w.vif.Faults().Clear()
	s := w.dev.Status()
	if s.Violations != 3 || s.Ended["violation"] != 3 || s.State != "Closed" || !strings.Contains(s.Off, "violated the protocol 3 times") || !strings.HasPrefix(s.Reason, ErrOff.Error()) {
		t.Errorf("%+v", s)
	}
	if w.link().Attrs().OperState.String() == "up" {
		t.Error("the TAP has its carrier")
	}
	evidence := logs.FilterField(event(EventEvidence)).All()
	if len(evidence) != 3 {
		t.Fatalf("evidence of %d violations, want 3", len(evidence))
	}
	for _, l := range evidence {
		tx := l.ContextMap()["tx"].(*RingDump)
		if len(tx.Responses) == 0 || len(tx.Responses) > maxEvidence || len(tx.InFlight) > maxEvidence {
			t.Errorf("%+v", tx)
		}
	}
	if all := waits(logs); len(all) != 3 || all[1] < backoffMin<<1/2 || all[2] != 0 {
		t.Errorf("waited %v", all)
	}
	if n := logs.FilterField(event(EventOff)).Len(); n != 1 {
		t.Errorf("%d lines about it", n)
	}
	// The toolstack attaches the same backend again.
	w.reattachSame()
	w.eventually("the backend to wait for the vif", func() bool { return w.dev.Status().BackendState == "InitWait" })
	if s := w.dev.Status(); s.Off == "" || s.State == "Connected" {
		t.Errorf("%+v", s)
	}
	w.dev.Retry()
	w.connected(s.Connects + 1)
	if s := w.dev.Status(); s.Off != "" || s.Violations != 0 {
		t.Errorf("%+v", s)
	}
	if !w.arrives(mark(700, 1)) {
		t.Error("no frame arrives")
	}
}

// reattachSame has the toolstack take the vif away and bring it again.
func (w *world) reattachSame() {
	w.t.Helper()
	ctx := w.deadline()
	w.check(xensim.DetachVif(ctx, w.server.Toolstack(), guestDom, 0, 10*time.Second))
	w.check(xensim.AttachVif(ctx, w.server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: driverDom, MAC: guestMAC}))
	w.newBackend()
}

// A process that is started anew is no reason to forget, and no reason to grant other pages.
func TestNextProcessKnowsTheViolationsAndHasThePages(t *testing.T) {
	log, logs := observed(zap.InfoLevel)
	w, h := newKeptWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}, front: Config{Logger: log, MaxViolations: func() int { return 2 }}})
	w.exchange(10, 0)
	before := w.server.GrantsInUse(guestDom)
	violate := func() {
		t.Helper()
		was := w.dev.Status().Ended["violation"]
		w.vif.Faults().Inject(netback.TxIDOutOfRange, 1)
		w.eventually("the violation", func() bool {
			w.send(tap.VirtioHeader{}, mark(100, 1))
			return w.dev.Status().Ended["violation"] > was
		})
	}
	violate()
	w.connected(2)
	violate()
	w.eventually("the vif to be off", func() bool { return w.dev.Status().Off != "" })
	if k := h.keys(); k != "vif/0/connection vif/0/tap" {
		t.Errorf("the holder has %s", k)
	}
	w.leave()
	w.begin()
	w.eventually("the vif to be off", func() bool { return w.dev.Status().Off != "" })
	if s := w.dev.Status(); s.Violations != 2 || s.Grants != len(before) {
		t.Errorf("%+v", s)
	}
	w.dev.Retry()
	w.connected(1)
	if !w.arrives(mark(700, 1)) {
		t.Error("no frame arrives")
	}
	refs := func(list []xensim.GrantEntry) (refs []xensim.GrantEntry) {
		for _, g := range list {
			g.Mapped = 0
			refs = append(refs, g)
		}
		return refs
	}
	if after := w.server.GrantsInUse(guestDom); !slices.Equal(refs(after), refs(before)) {
		t.Errorf("%d grants, %d before: they are others", len(after), len(before))
	}
	w.leave() // and a process that has only some of the pages from itself
	w.begin()
	w.eventually("the connection to be taken over", func() bool { return w.dev.Status().State == "Connected" })
	if !w.arrives(mark(700, 2)) {
		t.Error("no frame arrives")
	}
	if n := logs.FilterField(event(EventNotTakenOver)).Len(); n != 0 {
		t.Errorf("%d lines of things that could not be taken over: %v", n, logs.All())
	}
}

func TestPagesOfASessionThatCannotBeGoneOnWithAreUsedAgain(t *testing.T) {
	w, h := newKeptWorld(t, worldConfig{})
	before := w.server.GrantsInUse(guestDom)
	w.leave()
	onState(func(f *stateFile) { f.head.Attempts = maxAttempts })(w, h)
	w.begin()
	w.connected(1)
	w.exchange(20, 0)
	if after := w.server.GrantsInUse(guestDom); len(after) != len(before) || after[0].Ref != before[0].Ref {
		t.Errorf("%d grants, %d before", len(after), len(before))
	}
}
