package netfront

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

const stalledLine = "nothing moves on a ring: both sides are kicked once"

// newWatchedWorld is a connection that has carried frames, with little patience.
func newWatchedWorld(t *testing.T) (*world, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	w := newWorld(t, worldConfig{front: Config{Logger: zap.New(core)}, patience: 300 * time.Millisecond})
	w.connected(1)
	w.exchange(10, 0)
	return w, logs
}

// An event can be lost. What waits then would wait for ever.
func TestLostEventStopsRx(t *testing.T) {
	w, logs := newWatchedWorld(t)
	w.vif.Faults().Inject(netback.RxMute, netback.Always)
	w.check(w.port.Send(0, tap.VirtioHeader{}, mark(200, 1)))
	if _, f := w.receive(markPrefix); !bytes.Equal(f, mark(200, 1)) {
		t.Error("another frame came")
	}
	w.vif.Faults().Clear()
	w.exchange(10, 50)
	if n := logs.FilterMessage(stalledLine).Len(); n != 1 {
		t.Errorf("%d lines: %v", n, logs.All())
	}
	if n := w.dev.Status().Connects; n != 1 {
		t.Errorf("%d connections: a kick was enough", n)
	}
}

func TestBackendThatStopsLookingIsWaitedForForEver(t *testing.T) {
	w, logs := newWatchedWorld(t)
	w.vif.Faults().Inject(netback.TxIgnore, netback.Always)
	for i := range 400 {
		w.send(tap.VirtioHeader{}, mark(100, i))
	}
	w.eventually("a new connection", func() bool { return w.dev.Status().Connects >= 2 })
	w.vif.Faults().Clear()
	w.connected(2)
	w.vif.Kick()
	w.send(tap.VirtioHeader{}, mark(70, 1000))
	for !bytes.Equal(w.fromGuest(markPrefix).Frame, mark(70, 1000)) {
		continue // those that waited in the TAP
	}
	if n := logs.FilterMessage(stalledLine).Len(); n != 1 {
		t.Errorf("%d lines: %v", n, logs.All())
	}
	if n := w.dev.Status().Ended["stalled"]; n != 1 {
		t.Errorf("%d connections ended by a stall", n)
	}
	// The next ones can have ended for want of a first sign of life, before the fault was
	// taken away.
	if c := logs.FilterMessage("disconnected").All()[0].ContextMap()["cause"]; c != "stalled" {
		t.Errorf("cause %v", c)
	}
}

// While nothing else is sent, a backend that serves nobody shows in nothing else: the state
// of an unbound netback stays Connected.
func TestFrameThatIsNeverAnsweredIsNotSaid(t *testing.T) {
	w, logs := newWatchedWorld(t)
	w.vif.Faults().HoldTx(5 * time.Second)
	w.send(tap.VirtioHeader{}, mark(100, 1))
	w.eventually("a line about it", func() bool { return logs.FilterMessage("the backend does not answer a frame").Len() > 0 })
	w.fromGuest(markPrefix)
	if n := w.dev.Status().Connects; n != 1 {
		t.Errorf("%d connections", n)
	}
	if n := logs.FilterMessage("the backend does not answer a frame").Len(); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// A frame whose answer is late, with room for more, is no reason to act: netback holds
// it for a receiver that is slow.
func TestLateAnswerEndsTheConnection(t *testing.T) {
	w, logs := newWatchedWorld(t)
	w.vif.Faults().HoldTx(1500 * time.Millisecond)
	w.send(tap.VirtioHeader{}, mark(100, 1))
	if r := w.fromGuest(markPrefix); !bytes.Equal(r.Frame, mark(100, 1)) {
		t.Error("another frame came")
	}
	w.vif.Faults().Clear()
	if n := logs.FilterMessage(stalledLine).Len(); n != 0 || w.dev.Status().Connects != 1 {
		t.Errorf("%v; status %+v", logs.All(), w.dev.Status())
	}
}

func TestPatienceIsShorterThanTheBackendsCredit(t *testing.T) {
	w := newWorld(t, worldConfig{})
	ctx, back := context.Background(), w.dev.Status().Backend
	w.eventually("the backend's path", func() bool { back = w.dev.Status().Backend; return back != "" })
	for rate, want := range map[string]time.Duration{
		"": 0, "1000000,50000": 50 * time.Millisecond, "800,50000": 82 * 50 * time.Millisecond, "65535,1000000": time.Second,
		"65534,1000000": 2 * time.Second, "x": 0, "1,x": 0, "0,50000": 0, "x,50000": 0,
	} {
		w.check(w.server.Toolstack().Write(ctx, back+"/rate", rate))
		credit := readRate(ctx, w.front.Store(), back).largestWait()
		if credit != want {
			t.Errorf("rate %q: %v, want %v", rate, credit, want)
		}
		w := newWatchdog(nil, true, credit, time.Second, nil)
		if w.patience != max(time.Second, 4*want) || w.more() != int(want.Seconds()) {
			t.Errorf("rate %q: patience %v, %d looks more", rate, w.patience, w.more())
		}
	}
}

// freshRig is a tx queue whose backend has just attached, under the watchdog's eyes.
type freshRig struct {
	*txRig
	watch queueWatch
	kicks int
}

func newFreshRig(t *testing.T) *freshRig {
	r := &freshRig{txRig: newTxRig(t, AllFeatures(), 16)}
	poll, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(poll.close)
	r.attach(&pair{tx: r.q, workers: []*worker{{poll: poll}}})
	return r
}

// attach has the watchdog begin.
func (r *freshRig) attach(p *pair) {
	r.watch = newWatchdog([]*pair{p}, true, 0, time.Second, nil).queues[0]
}

// send publishes one frame more.
func (r *freshRig) send() {
	r.feed(tap.VirtioHeader{}, mark(100, 1))
	r.service()
}

// serve lets the backend look at all there is.
func (r *freshRig) serve() {
	r.take()
	r.back.NotifyAfter(1)
}

// look is the watchdog's, with more looks to wait.
func (r *freshRig) look(more int) error {
	err := r.watch.fresh(more)
	if r.watch.p.workers[0].control.Swap(0)&controlKick != 0 {
		r.kicks++
	}
	return err
}

// A backend whose first event is lost looks at the ring when its interface comes up. That
// shows nothing of what it will do with what is sent from then on.
func TestFirstLookOfABackendPassesForASignOfLife(t *testing.T) {
	for _, sent := range []int{0, 1, 5} {
		r := newFreshRig(t)
		for range sent {
			r.send()
		}
		r.serve()
		for range 4 {
			if err := r.look(0); err != nil {
				t.Fatal(err)
			}
		}
		r.send()
		var err error
		looks := 0
		for ; err == nil && looks < 10; looks++ {
			err = r.look(0)
		}
		if !errors.Is(err, errNoProgress) || looks != 3 || r.kicks != 1 {
			t.Errorf("after %d frames: %v after %d looks and %d kicks", sent, err, looks, r.kicks)
		}
	}
}

// With frames that come all the time the proof is in the fourth look: the second one sees
// that the backend has looked, with a frame more on the ring, and the third one that it has
// looked at that.
func TestBackendThatGoesOnLookingIsGivenUp(t *testing.T) {
	r := newFreshRig(t)
	for i := range 10 {
		r.send()
		if err := r.look(0); err != nil {
			t.Fatal(err)
		}
		if waiting := r.watch.strike >= 0; waiting != (i < 3) {
			t.Errorf("look %d: strike %d", i, r.watch.strike)
		}
		r.serve()
	}
	if r.kicks != 0 {
		t.Errorf("%d kicks", r.kicks)
	}
}

// A backend that answers what it had looked at before it was bound anew is at work, and one
// that claims more than there is has nothing left to do.
func TestBackendWithAStaleIndexIsGivenUp(t *testing.T) {
	r := newFreshRig(t)
	for range 4 {
		r.send()
	}
	binary.LittleEndian.PutUint32(r.ringPage()[4:], 9) // req_event
	r.attach(r.watch.p)
	for range 6 {
		if err := r.look(0); err != nil || r.kicks != 0 {
			t.Fatalf("%v, %d kicks, strike %d", err, r.kicks, r.watch.strike)
		}
	}
	for range 5 {
		r.send()
	}
	r.take()
	for range 3 {
		r.respond(1, nil)
		for range 2 {
			if err := r.look(0); err != nil || r.kicks != 0 {
				t.Fatalf("%v, %d kicks, strike %d", err, r.kicks, r.watch.strike)
			}
		}
	}
}

// Out of credit netback looks again when it gets the next portion.
func TestBackendOutOfCreditIsGivenUp(t *testing.T) {
	r := newFreshRig(t)
	for range 2 {
		r.send()
		for range 4 {
			if err := r.look(3); err != nil || r.kicks != 0 {
				t.Fatalf("%v, %d kicks, strike %d", err, r.kicks, r.watch.strike)
			}
		}
		r.serve()
	}
	if err := r.look(3); err != nil {
		t.Error(err)
	}
}

func TestWorkerThatHangsIsSaidToBeAlive(t *testing.T) {
	w := newWorld(t, worldConfig{front: Config{Queues: 1}})
	w.connected(1)
	for range 3 {
		w.check(w.dev.Alive(10 * time.Second))
	}
	hung := &pair{workers: []*worker{{poll: w.dev.view.pairs[0].workers[0].poll, done: make(chan struct{}), pong: make(chan struct{}, 1)}}}
	hung.workers[0].started.Store(true)
	d := &Device{view: view{pairs: []*pair{hung}}}
	if err := d.Alive(20 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("%v", err)
	}
	close(hung.workers[0].done)
	if err := d.Alive(10 * time.Second); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
