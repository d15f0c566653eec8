package handover

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

// lossBound is what one process can have in its hands of one queue in one direction:
// a batch of frames that it has read and not noted yet, or noted and not written yet
// (txBatch and rxBatch of package netfront).
const lossBound = 32

func itoa(n int) string { return strconv.Itoa(n) }

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

// moment waits for up to limit.
func (k killer) moment(limit time.Duration) { time.Sleep(time.Duration(k.Int64N(int64(limit)))) }

func killsUnderPackets(t *testing.T, p programs) { kills(t, p, p.plain, newKiller(t, 200, 20)) }

func killsOfRaced(t *testing.T, p programs) {
	if p.raced == "" {
		t.Skip("only where the test itself has the race detector")
	}
	kills(t, p, p.raced, newKiller(t, 15, 4))
}

// kills kills the daemon at random moments, some of them while it takes over. Each
// time at most what one process has in its hands is lost of each stream, which is one
// flow and so in one queue.
func kills(t *testing.T, p programs, program string, k killer) {
	w := newWorld(t, p, 2)
	d := w.connected(program)
	same := w.watch()
	out, in := w.streams()
	out.start(0)
	in.start(0)
	var mark [2]uint64
	var most, total [2]int
	var gap time.Duration
	for done := 0; done < k.kills; {
		k.moment(20 * time.Millisecond)
		dead := 0
		for {
			d.kill()
			done++
			dead++
			if done >= k.kills || k.IntN(4) != 0 {
				break
			}
			d = w.start(program) // killed as it starts, or takes over
			k.moment(60 * time.Millisecond)
		}
		d = w.next(program)
		for i, s := range []*stream{out, in} {
			now := s.settle()
			lost := s.lost(mark[i], now)
			if lost > lossBound*dead {
				t.Fatalf("%s: %d packets from %d to %d lost by %d kills, at most %d may be", s.name, lost, mark[i], now, dead, lossBound*dead)
			}
			mark[i], most[i], total[i] = now, max(most[i], lost), total[i]+lost
			gap = max(gap, s.longest())
		}
		same.check()
	}
	for i, s := range []*stream{out, in} {
		s.halt()
		sent, lost := s.finish()
		if lost != total[i] {
			t.Errorf("%s: %d packets lost, by kills %d", s.name, lost, total[i])
		}
		report(t, "packets lost "+s.name, percent(lost, sent), fmt.Sprintf("%d kills, at most %d by one; bound %d", k.kills, most[i], lossBound))
		s.whole()
	}
	report(t, "longest gap over a kill", milliseconds(gap), "no goal")
	w.stop(d)
}

// killsUnderTransfer kills the daemon while TCP carries super-frames both ways. TCP
// makes up for what is lost; that no frame comes twice is told by counting them.
func killsUnderTransfer(t *testing.T, p programs) {
	k := newKiller(t, 30, 5)
	w := newWorld(t, p, 2)
	d := w.connected(p.plain)
	same := w.watch()
	before := w.settleFrames()
	out := startTransfer(t, "TCP from the guest", w.front, w.back, w.backIP, 0)
	in := startTransfer(t, "TCP to the guest", w.back, w.front, w.guestIP, 0)
	for range k.kills {
		out.awaitMore(1 << 20)
		in.awaitMore(1 << 20)
		k.moment(20 * time.Millisecond)
		d.kill()
		d = w.next(p.plain)
		same.check()
	}
	out.finish()
	in.finish()
	carried := w.settleFrames().since(before)
	lostOut, lostIn := carried.lost()
	bound := k.kills * w.queues * lossBound
	report(t, "frames lost from the guest", percent(lostOut, carried.fromTAP), fmt.Sprintf("%d kills; bound %d", k.kills, bound))
	report(t, "frames lost to the guest", percent(lostIn, carried.fromBackend), fmt.Sprintf("%d kills; bound %d", k.kills, bound))
	for _, lost := range []int{lostOut, lostIn} {
		if lost < 0 || lost > bound {
			t.Errorf("frames: %+v", carried)
		}
	}
	w.stop(d)
}
