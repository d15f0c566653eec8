package netfront

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

const stalledLine = "nothing moves on a ring: both sides are kicked once"

// watched is a world whose clock the test moves on.
type watched struct {
	*world
	logs    *observer.ObservedLogs
	seconds chan time.Time
	now     time.Time
}

// newWatched is a connection whose backend has proven that it listens.
func newWatched(t *testing.T) *watched {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	c := make(chan time.Time)
	w := &watched{newWorld(t, worldConfig{front: Config{Logger: zap.New(core)}, seconds: c}), logs, c, time.Unix(0, 0)}
	w.connected(1)
	// The watchdog is there at the first second that passes. At the next it sees that the
	// backend has looked, and at the one after that it has looked again.
	for i := range 3 {
		w.exchange(10, 10*i)
		w.eventually("every request to be looked at", func() bool {
			h := w.pair().tx.ring.Header()
			return h.Seen() == h.ReqProd && h.RspProd == h.ReqProd
		})
		w.pass(2) // that the second one is taken shows that the first is done with
	}
	return w
}

func (w *watched) pair() *pair {
	w.dev.mu.Lock()
	defer w.dev.mu.Unlock()
	return w.dev.view.pairs[0]
}

// pass lets n seconds pass, while the vif is connected.
func (w *watched) pass(n int) {
	w.t.Helper()
	for range n {
		w.now = w.now.Add(time.Second)
		select {
		case w.seconds <- w.now:
		case <-w.deadline().Done():
			w.t.Fatal("nobody looks at the clock")
		}
	}
}

// lines is how often the Device has logged message.
func (w *watched) lines(message string) int { return w.logs.FilterMessage(message).Len() }

// passUntil lets time pass until cond is true. One second more may pass.
func (w *watched) passUntil(what string, cond func() bool) {
	w.t.Helper()
	w.eventually(what, func() bool {
		select {
		case w.seconds <- w.now.Add(time.Second):
			w.now = w.now.Add(time.Second)
		default: // the connection has ended, or a look goes on
		}
		return cond()
	})
}

// passUntilLogged lets time pass until the Device logs message.
func (w *watched) passUntilLogged(message string) {
	w.t.Helper()
	w.passUntil(fmt.Sprintf("the line %q", message), func() bool { return w.lines(message) > 0 })
}

// An event can be lost. What waits then would wait for ever.
func TestLostEventDoesNotStopRx(t *testing.T) {
	w := newWatched(t)
	w.vif.Faults().Inject(netback.RxMute, netback.Always)
	consumed := &w.pair().rx.consumed
	sent := 0
	// A frame that is put while the queue still sees to the last event needs none.
	for w.lines(stalledLine) == 0 {
		before := consumed.Load()
		w.check(w.port.Send(0, tap.VirtioHeader{}, mark(200, sent)))
		sent++
		w.passUntil("the frame to be taken, or to wait", func() bool {
			return w.lines(stalledLine) > 0 || consumed.Load() != before
		})
	}
	for i := range sent {
		if _, f := w.receive(markPrefix); !bytes.Equal(f, mark(200, i)) {
			t.Errorf("frame %d of %d is another", i, sent)
		}
	}
	w.vif.Faults().Clear()
	w.exchange(10, 50)
	if n := w.lines(stalledLine); n != 1 {
		t.Errorf("%d lines: %v", n, w.logs.All())
	}
	if n := w.dev.Status().Connects; n != 1 {
		t.Errorf("%d connections: a kick was enough", n)
	}
}

func TestBackendThatStopsLookingIsGivenUp(t *testing.T) {
	w := newWatched(t)
	w.vif.Faults().Inject(netback.TxIgnore, netback.Always)
	for i := range 400 {
		w.send(tap.VirtioHeader{}, mark(100, i))
	}
	w.eventually("a full ring", w.pair().tx.waits.Load)
	w.passUntilLogged("disconnected")
	w.vif.Faults().Clear()
	w.connected(2)
	w.vif.Kick()
	w.send(tap.VirtioHeader{}, mark(70, 1000))
	for !bytes.Equal(w.fromGuest(markPrefix).Frame, mark(70, 1000)) {
		continue // those that waited in the TAP
	}
	if n := w.lines(stalledLine); n != 1 {
		t.Errorf("%d lines: %v", n, w.logs.All())
	}
	if n := w.dev.Status().Ended["stalled"]; n != 1 || w.lines("disconnected") != 1 {
		t.Errorf("%d connections of %d ended by a stall", n, w.lines("disconnected"))
	}
	if c := w.logs.FilterMessage("disconnected").All()[0].ContextMap()["cause"]; c != "stalled" {
		t.Errorf("cause %v", c)
	}
}

// While nothing else is sent, a backend that serves nobody shows in nothing else: the state
// of an unbound netback stays Connected.
func TestFrameThatIsNeverAnsweredIsSaid(t *testing.T) {
	const line = "the backend does not answer a frame"
	w := newWatched(t)
	w.vif.Faults().Inject(netback.TxUnanswered, 1)
	w.send(tap.VirtioHeader{}, mark(100, 1))
	w.fromGuest(markPrefix)
	w.passUntilLogged(line)
	w.pass(60)
	if n := w.dev.Status().Connects; n != 1 {
		t.Errorf("%d connections", n)
	}
	if n := w.lines(line); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

// A frame whose answer is late, with room for more, is no reason to act: netback holds
// it for a receiver that is slow.
func TestLateAnswerIsNoReasonToEndTheConnection(t *testing.T) {
	w := newWatched(t)
	w.vif.Faults().HoldTx(1500 * time.Millisecond)
	w.send(tap.VirtioHeader{}, mark(100, 1))
	w.pass(60)
	if r := w.fromGuest(markPrefix); !bytes.Equal(r.Frame, mark(100, 1)) {
		t.Error("another frame came")
	}
	w.vif.Faults().Clear()
	if n := w.lines(stalledLine); n != 0 || w.dev.Status().Connects != 1 {
		t.Errorf("%v; status %+v", w.logs.All(), w.dev.Status())
	}
}

func TestPatienceIsAsLongAsTheBackendsCredit(t *testing.T) {
	w := newWorld(t, worldConfig{})
	ctx, back := context.Background(), w.dev.Status().Backend
	w.eventually("the backend's path", func() bool { back = w.dev.Status().Backend; return back != "" })
	for rate, want := range map[string]time.Duration{
		"": 0, "1000000,50000": 50 * time.Millisecond, "800,50000": 82 * 50 * time.Millisecond, "65535,1000000": time.Second,
		"65534,1000000": 2 * time.Second, "x": 0, "1,x": 0, "0,50000": 0, "x,50000": 0,
	} {
		w.check(w.server.Toolstack().Write(ctx, back+"/rate", rate))
		text, err := w.front.Store().Read(ctx, back+"/"+netif.KeyRate)
		w.check(err)
		credit := parseRate(text).largestWait()
		if credit != want {
			t.Errorf("rate %q: %v, want %v", rate, credit, want)
		}
		w := newWatchdog(nil, true, credit, nil)
		if w.patience != max(stallAfter, 4*want) || w.more() != int(want.Seconds()) {
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
	r.watch = newWatchdog([]*pair{p}, true, 0, nil).queues[0]
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
func TestFirstLookOfABackendIsNoSignOfLife(t *testing.T) {
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
func TestBackendThatGoesOnLookingIsKept(t *testing.T) {
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
func TestBackendWithAStaleIndexIsKept(t *testing.T) {
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
func TestBackendOutOfCreditIsKept(t *testing.T) {
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

func TestWorkerThatHangsIsNotSaidToBeAlive(t *testing.T) {
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

// The watchdog is patient with a backend that waits for credit, and believes what its node says
// of that within reason.
func TestBackendCannotSwitchTheWatchdogOffByItsRate(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	c := make(chan time.Time)
	w := &watched{newWorld(t, worldConfig{
		front: Config{Logger: zap.New(core)}, seconds: c,
		prepare: func(v *netback.Vif) { v.Faults().Inject(netback.TxIgnore, netback.Always) },
	}), logs, c, time.Unix(0, 0)}
	w.connected(1)
	rate := w.dev.Status().Backend + "/" + netif.KeyRate
	w.check(w.backendStore().Write(w.deadline(), rate, "1,4294967295"))
	w.eventually("the line about it", func() bool { return logs.FilterField(event(EventRate)).Len() == 1 })
	w.check(w.vif.ShowState(w.deadline(), netif.StateClosing))
	w.connected(2)
	w.send(tap.VirtioHeader{}, mark(100, 1))
	w.passUntil("the end of the connection", func() bool { return w.dev.Status().Ended["no-progress"] > 0 })
	if s := w.dev.Status(); s.Shaping.Limit != 0 {
		t.Errorf("shaped to %d bytes a second", s.Shaping.Limit)
	}
	for _, l := range logs.FilterField(event(EventRate)).All() {
		if err := l.ContextMap()["error"].(string); !strings.Contains(err, `"1,4294967295"`) || strings.Contains(err, "\n") {
			t.Errorf("%q", err)
		}
	}
	for v, want := range map[string]bool{"65535,60000000": true, "65535,60000001": false, "1093,1000000": true, "1092,1000000": false} {
		if believed := parseRate(v).largestWait() <= maxCreditWait; believed != want {
			t.Errorf("%s: believed %v, want %v", v, believed, want)
		}
	}
	w.vif.Faults().Clear()
}
