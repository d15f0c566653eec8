package netback

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

func TestFramesPassBothWaysOnEveryKindOfConnection(t *testing.T) {
	for _, c := range []struct {
		name   string
		queues int
		split  bool
	}{
		{"one queue, one channel", 1, false},
		{"one queue, split channels", 1, true},
		{"two queues, one channel each", 2, false},
		{"two queues, split channels", 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.connect(c.queues, c.split, allFeatures())
			for i, q := range r.queues {
				q.post(64)
				for n := range 20 {
					out := frameOf(60+n*200, byte(n))
					ids := q.send(out, 1500, 0)
					q.expect(netif.StatusOkay, 0, ids...)
					got, err := r.port.Receive(r.ctx)
					r.check(err)
					if got.Queue != i || !bytes.Equal(got.Frame, out) {
						t.Fatalf("queue %d, %d bytes; sent %d on %d", got.Queue, len(got.Frame), len(out), i)
					}
					in := frameOf(60+n*100, byte(n+100))
					r.check(r.port.Send(i, tap.VirtioHeader{}, in))
					if data, _, _ := q.receive(); !bytes.Equal(data, in) {
						t.Fatalf("received %d bytes, want %d", len(data), len(in))
					}
				}
			}
			if err := r.vif.Fatal(); err != nil {
				t.Error(err)
			}
			s := r.vif.Stats()
			if want := uint64(20 * c.queues); s.TxFrames != want || s.RxFrames != want || s.Dropped() != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestClosingWalkReachesClosedAndInitWait(t *testing.T) {
	r := newRig(t, Options{})
	for range 3 {
		r.connect(1, true, allFeatures())
		r.queues[0].post(10)
		r.close()
		r.setState(netif.StateInitialising)
		r.awaitState(netif.StateInitWait)
	}
	r.states(2, 4, 5, 6, 2, 4, 5, 6, 2, 4, 5, 6, 2)
}

// From Connected straight to Initialising: a frontend that died and came back.
func TestInitialisingFromConnectedWalksAllTheWay(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	r.setState(netif.StateInitialising)
	r.awaitState(netif.StateInitWait)
	r.states(2, 4, 5, 6, 2)
	r.free()
	r.connect(1, true, allFeatures())
}

func TestConnectedWaitsForTheHotplugScript(t *testing.T) {
	r := newRig(t, Options{HotplugDelay: -1}, func(c *xensim.VifConfig) { c.Script = "vif-bridge" })
	r.prepare(1, true, allFeatures())
	r.setState(netif.StateConnected)
	r.check(r.port.WaitCarrier(r.ctx, true)) // the rings are in use
	// Frames pass, though the state does not say so yet.
	q := r.queues[0]
	q.expect(netif.StatusOkay, 0, q.send(frameOf(60, 1), 60, 0)...)
	r.states(2)
	r.check(r.xen.Toolstack().Write(r.ctx, r.backDir()+"/"+netif.KeyHotplugStatus, "connected"))
	r.check(r.vif.WaitConnected(r.ctx))
}

func TestHotplugDelay(t *testing.T) {
	const delay = 60 * time.Millisecond
	start := time.Now()
	r := newRig(t, Options{HotplugDelay: delay}, func(c *xensim.VifConfig) { c.Script = "vif-bridge" })
	r.connect(1, true, allFeatures())
	if d := time.Since(start); d < delay {
		t.Errorf("connected after %v", d)
	}
}

// Linux shows Connected whatever comes of the connect; the reason is in the error
// node alone.
func TestFailedConnectShowsConnectedAndAnErrorNode(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  func(r *rig)
		reason string
	}{
		{"too many queues", func(r *rig) { r.write(netif.KeyNumQueues, "3") }, "exceeding the maximum of 2"},
		{"no tx ring", func(r *rig) { r.check(r.front.Store().Remove(r.ctx, r.frontDir()+"/"+netif.KeyTxRingRef)) }, "tx-ring-ref"},
		{"ring that is not granted", func(r *rig) { r.write(netif.KeyRxRingRef, "4000") }, "map rx ring"},
		{"no channel", func(r *rig) { r.check(r.front.Store().Remove(r.ctx, r.frontDir()+"/"+netif.KeyEventChannelTx)) }, "event-channel"},
		{"channel that is not bound", func(r *rig) { r.write(netif.KeyEventChannelTx, "999") }, "bind tx channel"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			r.prepare(1, true, allFeatures())
			c.spoil(r)
			r.setState(netif.StateConnected)
			r.awaitState(netif.StateConnected)
			if n := r.vif.Queues(); n != 0 {
				t.Errorf("%d queues", n)
			}
			r.states(2, 5, 4)
			reason, err := r.xen.Toolstack().Read(r.ctx, "/local/domain/0/error/backend/vif/1/0/error")
			if err != nil || !strings.Contains(reason, c.reason) {
				t.Errorf("error node %q, %v", reason, err)
			}
			// The walk recovers from it.
			r.close()
			r.setState(netif.StateInitialising)
			r.awaitState(netif.StateInitWait)
		})
	}
}

func TestRebindGoesOnWithTheSameRings(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	q.post(8)
	q.expect(netif.StatusOkay, 0, q.send(frameOf(60, 1), 60, 0)...)
	r.check(r.vif.Rebind(r.ctx))
	r.check(r.vif.WaitConnected(r.ctx))
	r.states(2, 4, 2, 4)
	r.port = r.vif.MemoryPort()
	q.expect(netif.StatusOkay, 0, q.send(frameOf(60, 2), 60, 0)...)
	got, err := r.port.Receive(r.ctx)
	r.check(err)
	if !bytes.Equal(got.Frame, frameOf(60, 2)) {
		t.Error("wrong frame after rebind")
	}
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 3)))
	if data, _, _ := q.receive(); !bytes.Equal(data, frameOf(60, 3)) {
		t.Error("wrong frame from the port after rebind")
	}
}

func TestDetachRemovesTheVif(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	detached := make(chan error, 1)
	go func() { detached <- xensim.DetachVif(r.ctx, r.xen.Toolstack(), guestID, 0, 0) }()
	r.awaitState(netif.StateClosing)
	r.setState(netif.StateClosing)
	r.setState(netif.StateClosed)
	r.check(<-detached)
	select {
	case <-r.vif.Done():
	case <-r.ctx.Done():
		t.Fatal("vif is still there")
	}
	// It can come back.
	r.check(xensim.AttachVif(r.ctx, r.xen.Toolstack(), xensim.VifConfig{Frontend: guestID, MAC: r.vif.Info().MAC}))
	_, err := r.backend.Vif(r.ctx, VifID{Frontend: guestID})
	r.check(err)
}

func TestForcedDetachRemovesTheVif(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	xensim.DetachVif(r.ctx, r.xen.Toolstack(), guestID, 0, time.Millisecond)
	select {
	case <-r.vif.Done():
	case <-r.ctx.Done():
		t.Fatal("vif is still there")
	}
}

func TestAnnouncedFeaturesCanBeSwitchedOff(t *testing.T) {
	keys := []string{netif.KeySG, netif.KeyGSOTCPv4, netif.KeyGSOTCPv6, netif.KeyIPv6Csum, netif.KeyRxCopy,
		netif.KeySplitChannels, netif.KeyMcastControl, netif.KeyMaxQueues}
	off := []func(*Features){
		func(f *Features) { f.SG = false }, func(f *Features) { f.GSOv4 = false },
		func(f *Features) { f.GSOv6 = false }, func(f *Features) { f.CsumIPv6 = false },
		func(f *Features) { f.RxCopy = false }, func(f *Features) { f.SplitChannels = false },
		func(f *Features) { f.McastControl = false }, func(f *Features) { f.MaxQueues = 0 },
	}
	for i, key := range keys {
		f := LinuxFeatures()
		off[i](&f)
		r := newRig(t, Options{Features: &f})
		list, err := r.xen.Toolstack().Directory(r.ctx, r.backDir())
		r.check(err)
		for j, k := range keys {
			if slices.Contains(list, k) != (i != j) {
				t.Errorf("%s switched off: %s there: %v", key, k, i == j)
			}
		}
	}
}

func TestStateIsShownWithoutActingOnIt(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	r.check(r.vif.ShowState(r.ctx, netif.StateClosing))
	r.awaitState(netif.StateClosing)
	q := r.queues[0]
	q.expect(netif.StatusOkay, 0, q.send(frameOf(60, 1), 60, 0)...)
}

// With one channel the tx worker takes the event that the rx worker waits for.
func TestSlotsArriveThroughTheSharedChannel(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, false, allFeatures())
	q := r.queues[0]
	r.check(r.port.Send(0, tap.VirtioHeader{}, frameOf(60, 1)))
	r.eventually(func() bool { return q.rx.Header().ReqEvent == 1 && r.port.Waiting(0) == 0 })
	q.post(1)
	if data, _, _ := q.receive(); !bytes.Equal(data, frameOf(60, 1)) {
		t.Error("frame is another")
	}
}

func TestNeverConnectFaultLeavesInitWait(t *testing.T) {
	r := newRig(t, Options{})
	r.vif.Faults().Inject(NeverConnect, 1)
	r.prepare(1, true, allFeatures())
	r.setState(netif.StateConnected)
	r.eventually(func() bool { return r.vif.Faults().Left(NeverConnect) == 0 })
	r.states(2)
	r.setState(netif.StateConnected) // the same again: a new look
	r.check(r.vif.WaitConnected(r.ctx))
}

func TestFrontendThatVanishesEndsTheVif(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	r.check(xensim.RemoveDomain(r.ctx, r.xen.Toolstack(), guestID))
	select {
	case <-r.vif.Done():
	case <-r.ctx.Done():
		t.Fatal("vif is still there")
	}
	if got, err := r.xen.Toolstack().Read(r.ctx, r.backDir()+"/"+netif.KeyState); got != "6" {
		t.Errorf("backend's state %q, %v", got, err)
	}
}

// A backend that starts again, as a module that is loaded again, takes over what it
// finds.
func TestNewBackendGoesOnWithOldRings(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	q.post(8)
	r.stop()
	r.stop = nil
	if got, _ := r.xen.Toolstack().Read(r.ctx, r.backDir()+"/"+netif.KeyState); got != "4" {
		t.Fatalf("state %s after the driver's end", got)
	}
	ids := q.send(frameOf(60, 1), 60, 0)
	conn, err := r.xen.Connect(0)
	r.check(err)
	defer conn.Close()
	r.backend = New(conn, Options{})
	ctx, stop := context.WithCancel(r.ctx)
	done := make(chan error, 1)
	go func() { done <- r.backend.Serve(ctx) }()
	defer func() { stop(); r.check(<-done) }()
	r.vif, err = r.backend.Vif(r.ctx, VifID{Frontend: guestID})
	r.check(err)
	// The frontend's ports are unbound since the old driver went, and can be bound.
	r.check(r.vif.WaitConnected(r.ctx))
	q.expect(netif.StatusOkay, 0, ids...)
}

func TestIORingShowsTheIndices(t *testing.T) {
	r := newRig(t, Options{})
	r.connect(1, true, allFeatures())
	q := r.queues[0]
	q.expect(netif.StatusOkay, 0, q.send(frameOf(60, 1), 60, 0)...)
	r.eventually(func() bool {
		text, err := r.vif.IORing(0)
		return err == nil && strings.Contains(text, "TX: req prod 1 event 2, rsp prod 1")
	})
	if _, err := r.vif.IORing(1); !errors.Is(err, ErrPort) {
		t.Errorf("queue 1: %v", err)
	}
}
