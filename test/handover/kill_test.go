package handover

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// lossBound is what one process can have in its hands of one queue in one direction:
// a batch of frames that it has read and not noted yet, or noted and not written yet
// (txBatch and rxBatch of package netfront).
const lossBound = 32

// maxInARow is how many processes are killed one after another, so that there is a next
// one that takes over: after five that died of it none does.
const maxInARow = 4

// killer chooses the moments.
type killer struct {
	*rand.Rand
	kills int
}

// newKiller prints the seed, with which a run can be repeated as far as time allows.
func newKiller(t *testing.T, full, short int) killer {
	t.Helper()
	if testing.Short() {
		full = short
	}
	kills := int(setting(t, "HANDOVER_KILLS", int64(full)))
	seed := setting(t, "HANDOVER_SEED", time.Now().UnixNano())
	t.Logf("%d kills, HANDOVER_SEED=%d", kills, seed)
	return killer{rand.New(rand.NewPCG(uint64(seed), 0)), kills}
}

// setting is a number from the environment.
func setting(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	v, ok := os.LookupEnv(name)
	if !ok {
		return otherwise
	}
	var n int64
	for _, c := range v {
		if c < '0' || c > '9' {
			t.Fatalf("%s=%q: want a number", name, v)
		}
		n = 10*n + int64(c-'0')
	}
	return n
}

// moment waits for up to limit.
func (k killer) moment(limit time.Duration) { time.Sleep(time.Duration(k.Int64N(int64(limit)))) }

func killsUnderPackets(t *testing.T, p programs) { kills(t, p, p.plain, newKiller(t, 200, 20)) }

func killsOfRaced(t *testing.T, p programs) {
	if p.raced == "" {
		needs.LeaveOut(t, "the race detector")
	}
	kills(t, p, p.raced, newKiller(t, 15, 4))
}

// tally is what kills cost two streams.
type tally struct {
	streams [2]*stream
	mark    [2]uint64 // all before it is counted
	most    [2]int    // by one kill
	total   [2]int
	gap     time.Duration
}

// tallied starts a stream each way.
func (w *world) tallied() *tally {
	w.t.Helper()
	out, in := w.streams()
	out.start(0)
	in.start(0)
	return &tally{streams: [2]*stream{out, in}}
}

// count fails the test if so many kills have cost more than they can. Each stream is one
// flow, and so in one queue.
func (y *tally) count(t *testing.T, kills int) {
	t.Helper()
	for i, s := range y.streams {
		now := s.settle()
		lost := s.lost(y.mark[i], now)
		if lost > lossBound*kills {
			t.Fatalf("%s: %d packets from %d to %d lost by %d kills, at most %d may be", s.name, lost, y.mark[i], now, kills, lossBound*kills)
		}
		y.mark[i], y.most[i], y.total[i] = now, max(y.most[i], lost), y.total[i]+lost
		y.gap = max(y.gap, s.longest())
	}
}

// finish ends the streams and prints what they have lost.
func (y *tally) finish(t *testing.T, kills int) {
	t.Helper()
	for i, s := range y.streams {
		s.halt()
		sent, lost := s.finish()
		if lost != y.total[i] {
			t.Errorf("%s: %d packets lost, by kills %d", s.name, lost, y.total[i])
		}
		report(t, "packets lost "+s.name, share(lost, sent), fmt.Sprintf("%d kills, at most %d by one; bound %d", kills, y.most[i], lossBound))
		s.whole()
	}
	report(t, "longest gap over a kill", milliseconds(y.gap), "no goal")
}

// kills kills the daemon at random moments, some of them while it takes over.
func kills(t *testing.T, p programs, program string, k killer) {
	w := newWorld(t, p, 2)
	d := w.connected(program)
	same := w.watch()
	dropped := w.drops()
	y := w.tallied()
	for done := 0; done < k.kills; {
		// Right after a take-over, when all that waited is on its way, or later.
		k.moment([]time.Duration{2 * time.Millisecond, 20 * time.Millisecond}[k.IntN(2)])
		dead := 0
		for {
			d.kill()
			done++
			dead++
			if done >= k.kills || dead == maxInARow || k.IntN(4) != 0 {
				break
			}
			d = w.start(program) // killed as it starts, or takes over
			k.moment(60 * time.Millisecond)
		}
		d = w.next(program)
		y.count(t, dead)
		same.check()
	}
	y.finish(t, k.kills)
	if now := w.drops(); !slices.Equal(now, dropped) {
		t.Errorf("dropped: %v, before %v", now, dropped)
	}
	w.stop(d)
}

// killsUnderTransfer kills the daemon while TCP carries super-frames both ways, with a
// stream beside it. TCP makes up for what is lost; that no frame comes twice is told by
// counting all of them.
func killsUnderTransfer(t *testing.T, p programs) {
	k := newKiller(t, 30, 5)
	w := newWorld(t, p, 2)
	d := w.connected(p.plain)
	same := w.watch()
	before, dropped := w.settleFrames(), w.drops()
	out := startTransfer(t, "TCP from the guest", w.front, w.back, w.backIP, 0)
	in := startTransfer(t, "TCP to the guest", w.back, w.front, w.guestIP, 0)
	y := w.tallied()
	for range k.kills {
		out.awaitMore(1 << 20)
		in.awaitMore(1 << 20)
		k.moment(20 * time.Millisecond)
		d.kill()
		d = w.next(p.plain)
		y.count(t, 1)
		same.check()
	}
	out.finish()
	in.finish()
	y.finish(t, k.kills)
	carried := w.settleFrames().since(before)
	lostOut, lostIn := carried.lost()
	bound := k.kills * w.queues * lossBound
	report(t, "frames lost from the guest", share(lostOut, carried.fromTAP), fmt.Sprintf("%d kills; bound %d", k.kills, bound))
	report(t, "frames lost to the guest", share(lostIn, carried.fromBackend), fmt.Sprintf("%d kills; bound %d", k.kills, bound))
	for _, lost := range []int{lostOut, lostIn} {
		if lost < 0 || lost > bound {
			t.Errorf("frames: %+v", carried)
		}
	}
	if now := w.drops(); !slices.Equal(now, dropped) {
		t.Errorf("dropped: %v, before %v", now, dropped)
	}
	w.stop(d)
}
