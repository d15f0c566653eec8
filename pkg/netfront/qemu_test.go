package netfront

import (
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// Backends with the habits of QEMU's xen-net-device (hw/net/xen_nic.c and
// hw/xen/xen-bus.c of QEMU 10.0).

// QEMU asks for no event at the next rx request. What came while the ring was dry would
// wait for an event that is about something else.
func TestFramesFlowAfterTheRxRingRanDryForABackendThatAsksForNoEvent(t *testing.T) {
	w := newWorld(t, worldConfig{
		front: Config{Features: features(func(f *Features) { f.SplitChannels = false })},
		back:  netback.Options{NoRxEvents: true, DrainTimeout: time.Hour, StallTimeout: time.Hour},
	})
	w.connected(1)
	const frames = 3 * 256
	for i := range frames {
		w.check(w.port.Send(0, tap.VirtioHeader{}, mark(200, i)))
	}
	for i := range frames {
		_, got := w.receive(markPrefix)
		if want := mark(200, i); string(got) != string(want) {
			t.Fatalf("frame %d is another", i)
		}
	}
}

// The rings of the connection before are at other indices than 0.
func TestBackendThatIsStartedAnewGetsANewConnectionAndNoBlame(t *testing.T) {
	w := newWorld(t, worldConfig{back: netback.Options{BeginsAgain: true}})
	w.connected(1)
	w.exchange(10, 0)
	w.check(w.vif.Rebind(w.deadline()))
	w.port = w.vif.MemoryPort()
	w.eventually("the next connection", func() bool {
		_ = w.port.Send(0, tap.VirtioHeader{}, mark(200, 1)) // it shows with the next frame
		return w.dev.Status().Connects == 2
	})
	w.connected(2)
	w.exchange(10, 20)
	if s := w.dev.Status(); s.Ended["backend-restarted"] != 1 || s.Violations != 0 {
		t.Errorf("ended %v, %d violations", s.Ended, s.Violations)
	}
}

// Under emulation QEMU takes half a second to follow the frontend to another state, and
// from Connected it goes only where a frontend that closes leads it.
func TestStopWaitsForABackendThatIsSlowToClose(t *testing.T) {
	log, logs := observed(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}, back: netback.Options{FollowsOnly: true, AnswerAfter: 3 * stopTimeout / 2}})
	w.connected(1)
	w.stop(nil)
	w.check(<-w.ran)
	w.ran <- nil
	w.eventually("the backend to wait for a frontend", func() bool {
		st, err := readState(w.deadline(), w.server.Toolstack(), xensim.BackendPath(driverDom, guestDom, 0))
		return err == nil && st == netif.StateInitWait
	})
	if l := logs.FilterField(event(EventNotLeft)); l.Len() != 0 {
		t.Errorf("%v", l.All())
	}
}

func TestStopSaysThatABackendHasNotClosedTheVif(t *testing.T) {
	log, logs := observed(zap.InfoLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: log}, back: netback.Options{FollowsOnly: true, AnswerAfter: 2 * farewellTimeout}})
	w.connected(1)
	w.stop(nil)
	w.check(<-w.ran)
	w.ran <- nil
	if l := logs.FilterField(event(EventNotLeft)); l.Len() != 1 {
		t.Errorf("%d lines, want one: %v", l.Len(), l.All())
	}
	w.check(Release(w.deadline(), w.front.Guest().Store, 0, nil))
}
