package netfront

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// A backend without feature-sg takes each slot for a frame. What the last
// connection left in the TAP can be a super-frame; what comes behind it must not go
// out in two slots because of it.
func TestTxWithoutSGNoFrameTakesTwoSlots(t *testing.T) {
	r := newTxRig(t, features(func(f *Features) { f.SG = false }), fullMaps)
	r.feed(tap.VirtioHeader{}, patterned(60000, 1))
	for i := range 4 {
		r.feed(tap.VirtioHeader{}, patterned(netif.PageSize-i, 2))
	}
	r.service()
	n, err := r.back.Requests()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if q := netif.ParseTxRequest(r.back.Request(i)); q.Flags&netif.TxMoreData != 0 {
			t.Fatalf("a frame of %d bytes goes on in a second slot", q.Size)
		}
	}
	r.take()
	r.respond(len(r.open), nil)
	if len(r.got) != 4 {
		t.Fatalf("%d frames, want 4", len(r.got))
	}
}

// A frame that takes every buffer and still goes on leaves the backend no slot to
// end it in: the queue would stand still for ever with the state Connected.
func TestRxFrameThatTakesEveryBufferBreaksTheQueue(t *testing.T) {
	r := newRxRig(t, minMaps)
	for range minMaps {
		r.raw(netif.RxResponse{Status: 100, Flags: netif.RxMoreData})
	}
	r.back.Push()
	for range 4 {
		if _, err := r.q.service(); errors.Is(err, ErrViolation) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the queue waits for the end of a frame that cannot come")
}

// fakeEvents is an event file without a Xen: its port is raised by hand.
type fakeEvents struct {
	fd      int
	pending atomic.Bool
	reads   atomic.Int64
	unmasks atomic.Int64
}

func newFakeEvents(t *testing.T) *fakeEvents {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeEvents{fd: fd}
}

func (e *fakeEvents) Open() (xen.EventFile, error)     { return e, nil }
func (e *fakeEvents) Adopt(int) (xen.EventFile, error) { return nil, unix.EOPNOTSUPP }
func (e *fakeEvents) Handle() (int, error)             { return -1, unix.EOPNOTSUPP }
func (e *fakeEvents) FD() int                          { return e.fd }
func (e *fakeEvents) Bind(xen.DomID) (xen.Port, error) { return 1, nil }
func (e *fakeEvents) Notify(xen.Port) error            { return nil }
func (e *fakeEvents) Unbind(xen.Port) error            { return nil }
func (e *fakeEvents) Close() error                     { return unix.Close(e.fd) }

func (e *fakeEvents) Read(ports []xen.Port) (int, error) {
	if len(ports) == 0 {
		return 0, nil
	}
	var b [8]byte
	if _, err := unix.Read(e.fd, b[:]); err != nil {
		return 0, nil
	}
	e.reads.Add(1)
	if !e.pending.Swap(false) {
		return 0, nil
	}
	ports[0] = 1
	return 1, nil
}

func (e *fakeEvents) Unmask(xen.Port) error {
	e.unmasks.Add(1)
	return nil
}

// readable tells whether an epoll instance would report the descriptor.
func (e *fakeEvents) readable() bool {
	fds := []unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil
}

// wake makes the descriptor readable.
func (e *fakeEvents) wake() {
	b := [8]byte{1}
	_, _ = unix.Write(e.fd, b[:])
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

// startWorker runs a worker on fake events until the test ends.
func startWorker(t *testing.T, events *fakeEvents, tx *txQueue, rx *rxQueue) *worker {
	t.Helper()
	return startWorkerOn(t, events, 1, tx, rx)
}

// startWorkerOn is startWorker on a file with so many ports.
func startWorkerOn(t *testing.T, events xen.EventFile, ports int, tx *txQueue, rx *rxQueue) *worker {
	t.Helper()
	w := newWorkerOn(t, events, ports, tx, rx)
	w.start(func(err error) { t.Error(err) })
	t.Cleanup(func() {
		w.tell(controlStop)
		<-w.done
	})
	return w
}

// newWorkerOn makes a worker on a file with so many ports, for the test to turn or to
// start.
func newWorkerOn(t *testing.T, events xen.EventFile, ports int, tx *txQueue, rx *rxQueue) *worker {
	t.Helper()
	w, err := newWorker(events)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	for range ports {
		if _, err := w.bind(0); err != nil {
			t.Fatal(err)
		}
	}
	w.tx, w.rx = tx, rx
	return w
}

// lateEvents is a file of two ports, of which the second is raised while the first is
// being read.
type lateEvents struct {
	*fakeEvents
	reading atomic.Bool
}

func (e *lateEvents) Read(ports []xen.Port) (int, error) {
	if e.reading.CompareAndSwap(true, false) {
		ports[0] = 1
		return 1, nil // the descriptor is still readable, and nobody is woken again
	}
	return e.fakeEvents.Read(ports)
}

// Linux wakes who waits for event channels when a port is raised and none waits to be
// read (evtchn_interrupt). A port that is raised while another is being read wakes
// nobody, and none does after it until it is read: such a worker would sleep until the
// watchdog's kick.
func TestPortThatIsRaisedWhileAnotherIsReadIsNotSleptOver(t *testing.T) {
	r := newRxRig(t, fullMaps)
	events := &lateEvents{fakeEvents: newFakeEvents(t)}
	events.reading.Store(true)
	events.pending.Store(true) // the second port
	w := startWorkerOn(t, events, 2, nil, r.q)
	w.tell(controlPing)
	<-w.pong
	time.Sleep(5 * time.Millisecond) // until it is parked: what wakes it must be the event
	events.wake()
	waitFor(t, "both ports to be read and unmasked", func() bool { return !events.pending.Load() && events.unmasks.Load() == 2 })
}

// The descriptor can be readable though the only port is masked: the embedded Xen's
// Notify marks the port first and writes the eventfd later. A worker that leaves the
// port masked because of a storm must take that, too, and come to the time-out that
// ends the pause.
func TestStormPauseDoesNotSpinOnALateWakeUp(t *testing.T) {
	events := newFakeEvents(t)
	w := newWorkerOn(t, events, 1, nil, newRxRig(t, fullMaps).q)
	turn := func(ready readiness, unmasks int64) (pause time.Duration) {
		t.Helper()
		n, pause, err := w.turn(ready)
		if err != nil || n != nextPark || events.readable() {
			t.Fatalf("next %v, %v; readable: %v", n, err, events.readable())
		}
		if u := events.unmasks.Load(); u != unmasks {
			t.Fatalf("unmasked %d times, not %d", u, unmasks)
		}
		return pause
	}
	for i := range int64(stormAfter + 1) {
		events.pending.Store(true)
		events.wake()
		turn(readyPort, min(i+1, stormAfter))
	}
	events.wake() // of an event that was read already
	if pause := turn(readyPort, stormAfter); pause != stormPause<<1 {
		t.Errorf("a pause of %v", pause)
	}
	if pause := turn(readyTimeout, stormAfter+1); pause != 0 {
		t.Errorf("a pause of %v after the port was unmasked", pause)
	}
}

// Linux netback answers a zero-copy frame when its last user lets go of it. With
// more than half of the ring held like that, for one slow receiver, the rest of the
// guest's traffic must not stand still until it comes.
func TestTxHeldAnswersDoNotStopTheRestOfTheRing(t *testing.T) {
	r := newTxRig(t, AllFeatures(), fullMaps)
	for i := range 2 * fullMaps {
		r.feed(tap.VirtioHeader{}, patterned(100, uint64(i)))
	}
	events := newFakeEvents(t)
	startWorker(t, events, r.q, nil)
	waitFor(t, "a full ring", func() bool { return r.q.ring.Header().ReqProd >= fullMaps-1 })
	r.take()
	answered := len(r.open) / 3
	r.respond(answered, nil) // and no event: fewer than the queue asked to hear of
	waitFor(t, "the freed slots to be used", func() bool {
		return r.q.ring.Header().ReqProd >= uint32(fullMaps-1+answered)
	})
	r.take()
}

// Whoever takes the vif next reads and writes other keys: netback prefers
// event-channel-tx to event-channel, for one, and would bind a port that is gone.
func TestStoppedDeviceLeavesNoKeysBehind(t *testing.T) {
	w := newWorld(t, worldConfig{front: Config{Queues: 2}})
	dir := xensim.FrontendPath(guestDom, 0)
	w.connected(1)
	w.stop(nil)
	select {
	case err := <-w.ran:
		w.ran <- err
	case <-time.After(20 * time.Second):
		t.Fatal("Run does not end")
	}
	names, err := w.server.Toolstack().Directory(w.deadline(), dir)
	w.check(err)
	for _, n := range names {
		if slices.Contains(allKeys, n) || n == netif.QueueDir(0) || n == netif.QueueDir(1) {
			t.Errorf("%s is left", n)
		}
	}
}

// Where the limit may be raised, pages that others in the guest use are no reason to
// do with fewer buffers.
func TestLimitIsRaisedWhenOthersUseIt(t *testing.T) {
	w := newWorld(t, worldConfig{offline: true, xen: xensim.Options{GrantLimit: 1024, AllowRaise: true}})
	others, err := w.front.Guest().Grants.Alloc(driverDom, 600, true)
	w.check(err)
	w.backend(worldConfig{})
	w.connected(1)
	if n := w.dev.Status().Queues[0].Tx.Maps.Created; n != fullMaps {
		t.Errorf("%d maps, want %d", n, fullMaps)
	}
	w.check(others.Free())
}

// A backend domain can write its state as fast as xenstore takes it. Each return to
// Connected costs a log line, a carrier change and an announcement.
func TestBackendThatFlapsIsHeldOffByTheBackOff(t *testing.T) {
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Script: "vif-bridge"}})
	w.connected(1)
	ctx, cancel := context.WithTimeout(w.deadline(), time.Second)
	defer cancel()
	state := xensim.BackendPath(driverDom, guestDom, 0) + "/" + netif.KeyState
	for ctx.Err() == nil {
		for _, st := range []string{"2", "4"} {
			_ = w.server.Toolstack().Write(ctx, state, st)
			time.Sleep(time.Millisecond)
		}
	}
	if n := w.dev.Status().Connects; n > 100 {
		t.Errorf("%d connections within a second", n)
	}
	turn := 0
	w.eventually("a backend that goes on with it to be given up", func() bool {
		turn++
		w.check(w.server.Toolstack().Write(w.deadline(), state, []string{"2", "4"}[turn%2]))
		return w.dev.Status().Ended["backend-closed"] > 0
	})
}

func TestBackendThatWouldFlipPagesIsRefused(t *testing.T) {
	o := offer{Features: AllFeatures(), maxQueues: 1}
	if _, err := negotiate(AllFeatures(), 1, o); !errors.Is(err, errNoRxCopy) {
		t.Errorf("error %v", err)
	}
	o.rxCopy = true
	if _, err := negotiate(AllFeatures(), 1, o); err != nil {
		t.Error(err)
	}
}

// The table of maps leads into the slab.
func TestRxStateWithAMapThatThereIsNotIsRefused(t *testing.T) {
	for _, id := range []uint16{minMaps, 255, 256, 0xffff, noMap} {
		r := newRxRig(t, minMaps)
		page, state := r.ringPage(), *r.q.state
		state.posted[3] = id
		tag, slab, _ := testDMA(t, r.grants, false, minMaps)
		if _, err := adoptRxQueue(&state, page, tag, slab, r.out, func() error { return nil }); !errors.Is(err, ErrHandover) {
			t.Errorf("map %d of %d: error %v, want ErrHandover", id, minMaps, err)
		}
	}
}

// Why there is no connection is the backend's state, as long as it is waited for.
func TestStatusShowsTheStateOfTheBackendThatIsWaitedFor(t *testing.T) {
	w := newWorld(t, worldConfig{offline: true})
	state := xensim.BackendPath(driverDom, guestDom, 0) + "/" + netif.KeyState
	for _, want := range []netif.State{netif.StateInitialising, netif.StateClosed, netif.StateInitialised} {
		w.check(w.server.Toolstack().Write(w.deadline(), state, strconv.Itoa(int(want))))
		w.eventually("the backend's state to show", func() bool { return w.dev.Status().BackendState == want.String() })
	}
}

// A netback that is bound anew can lose its first EOI as one that connects can.
func TestLostEOIAfterARebindIsNoticedAndSurvived(t *testing.T) {
	w := newWorld(t, worldConfig{
		vif:   xensim.VifConfig{Script: "vif-bridge"},
		front: Config{Features: features(func(f *Features) { f.SplitChannels = false })},
	})
	w.connected(1)
	w.roundTrip(1514)
	w.vif.Faults().Inject(netback.LostEOI, 1)
	w.check(w.vif.Rebind(w.deadline()))
	w.connected(2)
	w.send(tap.VirtioHeader{}, mark(100, 1))
	w.connected(3)
	w.roundTrip(1514)
}
