package netfront

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// silentBackend is a world whose backend has been prepared by the toolstack and goes no
// further, as when its hotplug script hangs: the rings are there, and nobody serves them.
func silentBackend(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, worldConfig{offline: true})
	w.eventually("the backend's path", func() bool { return w.dev.Status().Backend != "" })
	for _, kv := range [][2]string{{"/feature-rx-copy", "1"}, {"/state", "2"}} {
		w.check(w.server.Toolstack().Write(w.deadline(), w.dev.Status().Backend+kv[0], kv[1]))
	}
	w.eventually("the rings", func() bool { return w.dev.Status().State == "Initialised" })
	return w
}

func TestDeviceIsNotAliveWhileItsBackendDoesNotConnect(t *testing.T) {
	w := silentBackend(t)
	w.check(w.dev.Alive(5 * time.Second))
}

func TestDumpOfAVifWithoutConnectionIsRefusedAtOnce(t *testing.T) {
	w := silentBackend(t)
	if d, err := w.dev.Dump(w.deadline()); !errors.Is(err, ErrNotConnected) {
		t.Errorf("%+v, %v", d, err)
	}
	if err := w.dev.Kick(); !errors.Is(err, ErrNotConnected) {
		t.Error(err)
	}
}

func TestDumpShowsWhatIsInFlight(t *testing.T) {
	for name, split := range map[string]bool{"two event channels": true, "one event channel": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldConfig{front: Config{Queues: 1, MTU: 9000, Features: features(func(f *Features) { f.SplitChannels = split })}})
			w.connected(1)
			w.exchange(3, 0)
			w.vif.Faults().HoldTx(2 * time.Second)
			w.send(tap.VirtioHeader{}, mark(6000, 1)) // two slots
			w.eventually("the frame's maps in flight", func() bool { return w.dev.Status().Queues[0].Tx.Maps.InFlight >= 2 })
			d, err := w.dev.Dump(w.deadline())
			w.check(err)
			q := d.Queues[0]
			if len(d.Queues) != 1 || q.Problem != "" || q.Tx == nil || q.Rx == nil {
				t.Fatalf("%+v", d)
			}
			if q.Tx.Ref == 0 || q.Rx.Ref == 0 || q.Tx.Ref == q.Rx.Ref || (q.Tx.Port == q.Rx.Port) == split || q.Tx.Port == 0 {
				t.Errorf("rings %+v, %+v", q.Tx, q.Rx)
			}
			for name, r := range map[string]*RingDump{"tx": q.Tx, "rx": q.Rx} {
				if int(r.Maps.InFlight) != len(r.InFlight) || r.Size != 256 || r.Shared.ReqProd != r.ReqProd || r.Published != r.ReqProd {
					t.Errorf("%s: %+v", name, r)
				}
				if !slices.IsSortedFunc(r.InFlight, func(a, b InFlight) int { return int(int32(a.Index - b.Index)) }) {
					t.Errorf("%s: not in the order of requests: %+v", name, r.InFlight)
				}
				for _, x := range r.InFlight {
					if x.Slot != x.Index%256 || x.Ref == 0 || r.ReqProd-x.Index > 256 {
						t.Errorf("%s: %+v of %+v", name, x, r)
					}
				}
			}
			if last := q.Tx.InFlight[len(q.Tx.InFlight)-1]; last.Index != q.Tx.ReqProd-1 {
				t.Errorf("the last request is %+v, of %d", last, q.Tx.ReqProd)
			}
		})
	}
}

// idleWorker can be asked, and does not run.
func idleWorker(t *testing.T) *worker {
	t.Helper()
	poll, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(poll.close)
	return &worker{poll: poll, done: make(chan struct{})}
}

func TestWorkerThatIsStuckIsTheOnlyOneStuckInADump(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stuck, well := idleWorker(t), idleWorker(t)
	go func() {
		_ = well.poll.run(func(ready readiness) (next, time.Duration, error) {
			if ready&readyWake == 0 {
				return nextPark, 0, nil
			}
			return nextEnd, 0, nil
		})
		well.answerDump()
		cancel() // by now the stuck one has used up all the time
	}()
	got := dumpPairs(ctx, []*pair{{number: 0, workers: []*worker{stuck}}, {number: 1, workers: []*worker{well}}})
	want := []QueueDump{{Number: 0, Problem: "worker 0 does not answer"}, {Number: 1}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Who dumps a Device or asks whether it is alive has its workers from a list, and wakes
// them later.
func TestWakingAWorkerThatIsGoneWritesToNoFile(t *testing.T) {
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	number := p.wakeFD
	p.close()
	other, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	if other != number { // else it has the number already
		if err := unix.Dup3(other, number, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(number)
	}
	p.wake()
	var b [8]byte
	if n, err := unix.Read(other, b[:]); err != unix.EAGAIN {
		t.Errorf("read %d bytes, %v: it was written to", n, err)
	}
}

// A backend that keeps a frame for ever is found by its age alone: everything else goes on.
func TestAgeOfAFrameThatIsNeverAnsweredIsSeen(t *testing.T) {
	w := newWorld(t, worldConfig{front: Config{Queues: 1}})
	w.connected(1)
	w.vif.Faults().HoldTx(5 * time.Second)
	w.send(tap.VirtioHeader{}, mark(100, 1))
	tx := func() DirectionStatus { return w.dev.Status().Queues[0].Tx }
	w.eventually("the oldest frame to be two seconds old", func() bool { return tx().OldestInFlight >= 2 })
	d, err := w.dev.Dump(w.deadline())
	w.check(err)
	if age := d.Queues[0].Tx.InFlight[0].Age; age < 2 {
		t.Errorf("the oldest one's age is %d s: %+v", age, d.Queues[0].Tx)
	}
	w.vif.Faults().Clear()
	w.vif.Kick()
	w.eventually("no frame that is old", func() bool {
		w.send(tap.VirtioHeader{}, mark(100, 2)) // responses are taken when there is something to do
		return tx().OldestInFlight < 2
	})
}

func TestTotalsGoBackWithANewConnection(t *testing.T) {
	w := newWorld(t, worldConfig{front: Config{Queues: 1}})
	w.connected(1)
	w.exchange(10, 0)
	w.eventually("figures of ten frames each way", func() bool {
		now := w.dev.Status().Totals[0]
		return now.Tx["packets"] >= 10 && now.Rx["packets"] >= 10
	})
	before := w.dev.Status().Totals[0]
	w.vif.Faults().Inject(netback.TxIDOutOfRange, 1)
	w.send(tap.VirtioHeader{}, mark(100, 50))
	w.eventually("the end of the connection", func() bool {
		for k, n := range before.Tx {
			if now := w.dev.Status().Totals[0].Tx[k]; now < n {
				t.Fatalf("%s went from %d to %d", k, n, now)
			}
		}
		w.send(tap.VirtioHeader{}, mark(100, 51))
		return w.dev.Status().Connects >= 2
	})
	w.connected(2)
	s := w.dev.Status()
	if now := s.Totals[0].Tx["packets"]; now <= before.Tx["packets"] || now < s.Queues[0].Tx.Counters["packets"] {
		t.Errorf("%d packets, and %d before; %d of this connection", now, before.Tx["packets"], s.Queues[0].Tx.Counters["packets"])
	}
}

func TestBatchesAreCountedByTheirSize(t *testing.T) {
	var c counters
	for _, n := range []uint32{0, 1, 2, 3, 4, 127, 128, 256} {
		if err := c.pushed(n, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.publish()
	got := c.snapshot()
	for name, want := range map[string]uint64{"batches": 8, "batch_1": 2, "batch_2": 2, "batch_4": 1, "batch_8": 0, "batch_64": 1, "batch_128": 2} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d: %v", name, got[name], want, got)
		}
	}
}
