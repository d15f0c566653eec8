package netfront

import (
	"testing"
	"time"
)

// pacedBackend is a backend that takes so many bytes a second, and a guest that always has
// more to send than the pacer lets it.
type pacedBackend struct {
	pacer
	takes  float64 // bytes a second
	kept   float64 // bytes that somebody behind it keeps
	onRing float64
	most   float64 // bytes that were on the ring after a sample, at most
	sent   float64
}

const (
	pacedTime = 100 * time.Millisecond
	ringHolds = 1 << 20 // bytes, in super-frames
)

// run simulates so long and returns how much was taken of what could have been.
func (b *pacedBackend) run(long time.Duration) (share float64) {
	taken := 0.0
	b.most = 0
	for range long / pacedTime {
		send := ringHolds + b.takes*pacedTime.Seconds()
		if b.rate > 0 {
			send = b.rate * pacedTime.Seconds()
		}
		send = max(0, min(send, ringHolds-b.onRing+b.takes*pacedTime.Seconds()))
		take := min(b.onRing+send, b.takes*pacedTime.Seconds())
		b.onRing += send - take
		b.sent += send
		taken += take
		b.look(paceSample{time: pacedTime, sent: uint64(send), low: uint32(b.onRing + b.kept), full: b.onRing+b.kept > ringHolds/2})
		b.most = max(b.most, b.onRing)
	}
	return taken / (b.takes * long.Seconds())
}

// 30 Mb/s, of which netback lets the guest have less or more by its kernel's clock.
func TestPacerWithALimitUsesItAndLeavesLittleOnTheRing(t *testing.T) {
	const limit = 3_750_000
	for _, part := range []float64{0.15, 0.5, 0.83, 0.96, 1, 1.2} {
		b := pacedBackend{pacer: newPacer(limit), takes: part * limit}
		b.run(30 * time.Second) // it finds the backend's rate
		share := b.run(60 * time.Second)
		if want := 0.97 * min(1, 1/part); share < want {
			t.Errorf("backend that takes %.2f of the limit: %.3f of that was used, want %.3f", part, share, want)
		}
		if bound := paceFrames + b.takes*0.030; b.most > bound {
			t.Errorf("backend that takes %.2f of the limit: %.0f bytes on the ring, want %.0f at most", part, b.most, bound)
		}
	}
}

func TestPacerWithALimitBeginsBelowIt(t *testing.T) {
	p := newPacer(1000000)
	if r := p.rate; r != 950000 {
		t.Errorf("it begins with %.0f", r)
	}
	// Netback counts less than the discipline does: 0.95 of the limit is not reached yet.
	for range 100 {
		p.look(paceSample{time: pacedTime, sent: uint64(p.rate / 10 * 0.95)})
	}
	if p.rate < 970000 || p.rate > 1010000 {
		t.Errorf("it grew to %.0f", p.rate)
	}
	for range 10000 {
		p.look(paceSample{time: pacedTime, sent: uint64(p.rate / 10)})
	}
	if p.rate != paceMost*1000000 {
		t.Errorf("it grew to %.0f", p.rate)
	}
}

func TestPacerWithoutALimitLeavesAFastBackendAlone(t *testing.T) {
	var p pacer
	for i := range 1000 {
		// What is on the ring for less than 20 ms is on its way.
		if r := p.look(paceSample{time: pacedTime, sent: 100 << 20, low: 10 << 20}); r != 0 {
			t.Fatalf("sample %d: held back to %.0f", i, r)
		}
	}
}

func TestPacerWithoutALimitHoldsBackForASlowBackend(t *testing.T) {
	b := pacedBackend{takes: 1_250_000}
	if b.run(900 * time.Millisecond); b.rate != 0 {
		t.Errorf("held back to %.0f after 900 ms", b.rate)
	}
	b.run(10 * time.Second)
	share := b.run(30 * time.Second)
	if share < 0.93 || b.most > b.takes*0.060 {
		t.Errorf("%.3f was used, %.0f bytes were on the ring at most", share, b.most)
	}
	b.takes = 125_000_000
	if b.run(60 * time.Second); b.rate != 0 {
		t.Errorf("the backend has become fast, and is still sent %.0f bytes a second", b.rate)
	}
}

func TestPacerWithoutALimitEndsWhenNothingIsSent(t *testing.T) {
	b := pacedBackend{takes: 1_250_000}
	b.run(10 * time.Second)
	if b.rate == 0 {
		t.Fatal("it does not hold back")
	}
	for range paceRelease + 1 {
		b.look(paceSample{time: pacedTime})
	}
	if b.rate != 0 {
		t.Errorf("it holds back to %.0f bytes a second", b.rate)
	}
}

// In a busy guest this program carries less than the discipline lets through, and frames
// would wait in the TAP.
func TestPacerWithALimitFollowsAProgramThatIsLate(t *testing.T) {
	const carries = 1_500_000
	p, waiting, most := newPacer(3_750_000), 0.0, 0.0
	sent := 0.0
	for i := range 900 {
		in := p.rate * pacedTime.Seconds()
		out := min(waiting+in, carries*pacedTime.Seconds())
		waiting += in - out
		if i >= 300 {
			most, sent = max(most, waiting), sent+out
		}
		p.look(paceSample{time: pacedTime, sent: uint64(out), behind: waiting > 0})
	}
	if share := sent / (carries * 60); share < 0.9 || most > carries*0.05 {
		t.Errorf("%.3f was carried, %.0f bytes waited at most", share, most)
	}
}

// The guest's CPU does something else for a moment, again and again: 0.4 s of each 10 s.
func TestPacerWithALimitOutlivesAMomentWithoutACPU(t *testing.T) {
	const limit, carries = 12_500_000, 14_000_000
	p, waiting, sent := newPacer(limit), 0.0, 0.0
	for i := range 3000 {
		able := carries * pacedTime.Seconds()
		if i%100 < 4 {
			able /= 10
		}
		in := p.rate * pacedTime.Seconds()
		out := min(waiting+in, able)
		waiting += in - out
		sent += out
		p.look(paceSample{time: pacedTime, sent: uint64(out), behind: waiting > 0})
	}
	if share := sent / (limit * 300); share < 0.9 {
		t.Errorf("%.3f of the limit was carried", share)
	}
}

func TestPacerBeginsAnewAfterAPause(t *testing.T) {
	b := pacedBackend{pacer: newPacer(3_750_000), takes: 500_000}
	if b.run(30 * time.Second); b.rate > 600_000 {
		t.Fatalf("it holds back to %.0f bytes a second", b.rate)
	}
	if b.rest(); b.rate != paceFirst*3_750_000 {
		t.Errorf("it begins anew with %.0f", b.rate)
	}
	b = pacedBackend{takes: 1_250_000}
	b.run(10 * time.Second)
	if b.rest(); b.rate != 0 {
		t.Errorf("without a limit it begins anew with %.0f", b.rate)
	}
}

// A receiver behind the backend that keeps frames looks like a slow backend.
func TestPacerDoesNotStarveAVifForFramesThatSomebodyKeeps(t *testing.T) {
	b := pacedBackend{pacer: newPacer(3_750_000), takes: 3_600_000, kept: 300_000}
	b.run(10 * time.Second)
	if share := b.run(60 * time.Second); share < 0.9 {
		t.Errorf("%.3f of the limit was used", share)
	}
	b.kept = 0
	if share := b.run(60 * time.Second); share < 0.95 || b.most > b.takes*0.030 {
		t.Errorf("%.3f of the limit was used afterwards, %.0f bytes were on the ring", share, b.most)
	}
}
