package netfront

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// late holds the guest's events back until the test's end, as Linux does while one of its
// drivers waits for its backend.
func (w *world) late() {
	w.server.HoldEvents(guestDom, true)
	w.t.Cleanup(func() { w.server.HoldEvents(guestDom, false) })
}

// reconnected waits for a connection after the first.
func (w *world) reconnected() {
	w.t.Helper()
	w.eventually("another connection", func() bool {
		s := w.dev.Status()
		return s.Connects >= 2 && s.State == "Connected" && len(s.Queues) > 0
	})
}

func TestVifThatIsDetachedWhileEventsAreLateIsClosedInTheToolstacksTime(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	w.late()
	// It waits 10 s for the end, and then takes the vif away by force.
	w.check(xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, 0, 0))
	w.check(xensim.AttachVif(w.deadline(), w.server.Toolstack(), w.config.vif))
	w.reconnected()
	w.vif, _ = w.back.Vif(w.deadline(), netback.VifID{Frontend: guestDom, Device: 0})
}

func TestVifThatIsAttachedAnewInTheSamePlaceIsConnectedWhileEventsAreLate(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	w.late()
	err := xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, 0, time.Nanosecond)
	if err != nil && !errors.Is(err, xensim.ErrDetachForced) {
		t.Fatal(err)
	}
	w.check(xensim.AttachVif(w.deadline(), w.server.Toolstack(), w.config.vif))
	w.reconnected()
	w.vif, _ = w.back.Vif(w.deadline(), netback.VifID{Frontend: guestDom, Device: 0})
}

func TestVifWithAnotherBackendIsConnectedWhileEventsAreLate(t *testing.T) {
	const otherDom = 3
	w := newWorld(t, worldConfig{})
	w.connected(1)
	conn, err := w.server.Connect(otherDom)
	w.check(err)
	other := netback.New(conn, netback.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- other.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-served
		w.check(conn.Close())
	})
	w.late()
	// The old backend's directory stays as it is, as of a domain that hangs.
	store := w.server.Toolstack()
	record := "/libxl/5/device/vif/0"
	w.check(store.Remove(w.deadline(), record))
	cfg := w.config.vif
	cfg.Backend = otherDom
	w.check(xensim.AttachVif(w.deadline(), store, cfg))
	w.reconnected()
	if s := w.dev.Status(); s.BackendDomID != otherDom {
		t.Errorf("backend in domain %d, want %d", s.BackendDomID, otherDom)
	}
}

func TestVifThatIsDisabledWhileEventsAreKnownToBeLateHasNoCarrier(t *testing.T) {
	watches := new(Watches)
	w := newWorld(t, worldConfig{front: Config{Watches: watches}})
	w.connected(1)
	w.late()
	for range 3 {
		_, err := watches.Probe(w.deadline(), w.front.Store())
		w.check(err)
	}
	t.Cleanup(watches.End)
	w.check(w.server.Toolstack().Write(w.deadline(), xensim.FrontendPath(guestDom, 0)+"/"+netif.KeyDisconnect, "1"))
	w.eventually("the vif to be disabled", func() bool { return w.dev.Status().Disabled })
}

func TestEventsThatDoNotComeAreLateUntilTheyDo(t *testing.T) {
	w := newWorld(t, worldConfig{offline: true})
	var watches Watches
	store := w.front.Store()
	probe := func(want bool) {
		t.Helper()
		if late, err := watches.Probe(w.deadline(), store); late != want || err != nil {
			t.Errorf("late %v, %v; want %v", late, err, want)
		}
	}
	probe(false)
	<-watches.Answer()
	if late := watches.Answered(); late != 0 {
		t.Errorf("late for %v though the event has come", late)
	}
	w.late()
	probe(false)
	probe(false) // it may be that the guest was paused
	probe(true)
	probe(false) // not again
	if since, late := watches.Late(); !late || since.IsZero() || watches.Times() != 1 {
		t.Errorf("late %v since %v, %d times", late, since, watches.Times())
	}
	w.server.HoldEvents(guestDom, false)
	<-watches.Answer()
	if late := watches.Answered(); late <= 0 {
		t.Errorf("late for %v", late)
	}
	if _, late := watches.Late(); late || watches.Times() != 1 {
		t.Errorf("late %v, %d times", late, watches.Times())
	}
}
