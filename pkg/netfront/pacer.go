package netfront

import "time"

// pacer says at which rate one queue's frames should leave the guest's queueing
// discipline, so that they wait there and not on the ring. It follows what the backend
// gets done: down when bytes stay on the ring all the time, up again in small steps while
// none do. It is pure: samples go in, a rate comes out.
type pacer struct {
	limit   float64 // the backend's own, in bytes a second; 0: none that is known
	rate    float64 // in bytes a second; 0: nothing is held back
	carried float64 // bytes a second, on average over the last samples

	waiting int     // samples in a row in which bytes stayed on the ring
	calm    int     // samples in a row in which none did, though the rate was used
	unused  int     // samples in a row in which the rate was not used
	ceiling float64 // the rate at which bytes began to stay, the last time
	first   float64 // bytes that stayed then
	last    float64 // bytes that stayed at the last sample
	kept    float64 // bytes that stay at any rate: somebody behind the backend keeps them
	before  float64 // the rate before this program was late; 0: it is not
	able    float64 // the most that was carried since
	began   float64 // without a limit: what the backend did when holding back began
}

// paceSample is what a queue did in a time.
type paceSample struct {
	time time.Duration
	sent uint64 // bytes of frames put on the ring
	low  uint32 // least bytes that were on the ring once responses had been taken
	full bool   // the ring is more than half full
	// behind says that the TAP's queue was never seen empty: this program itself is late,
	// for want of a CPU.
	behind bool
}

const (
	// paceFirst is what a pacer with a limit lets through at first, as a share of it. Netback
	// measures its period in jiffies, so that with 250 Hz 50 ms are 52: the guest gets 0.96.
	paceFirst = 0.95
	// paceLeast and paceMost bound a pacer, as shares of the limit, or of what it began with.
	// The discipline counts the headers of every segment, and netback a super-frame's once.
	paceLeast, paceMost = 0.1, 1.05
	// paceDown is by what the rate falls in each sample in which bytes stay, from the second
	// in a row on, since a busy backend is late now and then. It grows by paceFar below what
	// it had before it fell, and by paceUp and paceNear the nearer it comes to that; above
	// it, and after paceSure calm samples, by paceFar again.
	paceDown, paceUp, paceNear, paceFar = 0.97, 1.001, 1.0002, 1.01
	paceSure                            = 50
	// paceFull is by what it falls while the ring is more than half full, and at first when
	// this program is late.
	paceFull = 0.9
	// paceShrinks is what is left of bytes that go fast enough, from one sample to the next:
	// the rate does not fall further then.
	paceShrinks = 0.95
	// paceAble is the share of the rate that must be carried while this program is late for
	// it to be late for a moment only. Then the rate is paceBack of what it was, once the TAP
	// is seen empty: it fell to make that come soon.
	paceAble, paceBack = 0.9, 0.98
	// paceKept is after how many samples bytes that stay, however low the rate, are taken
	// for frames that somebody behind the backend keeps. A lower rate takes away all others.
	paceKept = 30
	// paceFrames is how many bytes may stay in any case: three super-frames on a vif with a
	// low rate. With fewer, a backend that answers each frame when the next one comes would
	// seem slow.
	paceFrames = 3 * superFrameLeast
	// paceStays is how long what may stay takes to go at the rate that is carried. Without
	// a limit it is paceSlow: then the backend is slow, and not only late.
	paceStays, paceSlow = 10 * time.Millisecond, 20 * time.Millisecond
	// pacePatience is for how many samples in a row bytes have to stay before a pacer
	// without a limit begins to hold back.
	pacePatience = 10
	// paceUsed is the share of the rate from which on it is used.
	paceUsed = 0.88
	// paceRelease is after how many unused samples such a pacer ends it, paceGrown at which
	// multiple of what it began with.
	paceRelease, paceGrown = 100, 4
)

// newPacer begins for a backend with a limit in bytes a second, 0 for none.
func newPacer(limit uint64) pacer {
	return pacer{limit: float64(limit), rate: paceFirst * float64(limit)}
}

// look takes a sample and returns the rate from now on, 0 for no bound.
func (p *pacer) look(s paceSample) float64 {
	p.carried += (float64(s.sent)/s.time.Seconds() - p.carried) / 4
	stays := paceStays
	if p.limit == 0 {
		stays = paceSlow
	}
	low := float64(s.low)
	p.kept = min(p.kept, low)
	// Without a limit a guest's CPU may be what is slow, and then the rate finds no hold.
	behind := s.behind && p.limit > 0
	waits := s.sent > 0 && (behind || low-p.kept > max(paceFrames, p.carried*stays.Seconds()))
	if !waits {
		p.waiting = 0
	} else if p.waiting++; p.waiting == 1 && p.rate > 0 && !behind {
		p.ceiling, p.first = p.rate, low
	}
	if p.limit > 0 {
		p.late(behind, waits)
	}
	switch {
	case p.rate == 0:
		if p.waiting == pacePatience {
			p.rate = paceFirst * p.carried
			p.began = p.rate
		}
	case waits:
		p.calm, p.unused = 0, 0
		switch {
		case behind && p.waiting == 1:
		case behind && p.waiting == 2:
			p.rate *= paceFull
		case behind:
			p.rate *= paceDown
		case low < paceShrinks*p.last:
		case s.full:
			p.rate *= paceFull
		case p.waiting > paceKept && low > 0.9*p.first && low < 1.1*p.first:
			p.kept, p.rate, p.waiting = low, p.ceiling, 0
		case p.waiting > 1:
			p.rate *= paceDown
		}
	case p.carried > paceUsed*p.rate:
		p.rate *= p.growth()
		p.calm, p.unused = p.calm+1, 0
	default:
		p.unused++
	}
	p.last = low
	p.bound()
	return p.rate
}

// late follows a time in which this program is late. A moment without a CPU must not cost
// the rate for long: it has shown then that it can carry as much as before.
func (p *pacer) late(behind, waits bool) {
	switch {
	case behind && p.before == 0:
		p.before, p.able = p.rate, p.carried
	case behind:
		p.able = max(p.able, p.carried)
	case p.before > 0:
		if !waits && p.able > paceAble*p.before {
			p.rate = max(p.rate, paceBack*p.before)
		}
		p.before = 0
	}
}

// rest begins anew after a time in which nothing was sent: the ring is empty, and what made
// the backend slow may be over.
func (p *pacer) rest() {
	kept := p.kept
	*p = newPacer(uint64(p.limit))
	p.kept = kept
}

// growth is by what the rate grows in a sample that used it.
func (p *pacer) growth() float64 {
	r := p.rate / p.ceiling
	if p.ceiling == 0 && p.limit > 0 {
		r = p.carried / (paceFirst * p.limit)
	}
	switch {
	case r < 0.94, r > 1.02 && p.calm > paceSure:
		return paceFar
	case r < 0.98, r > 1.02:
		return paceUp
	}
	return paceNear
}

// bound keeps the rate where it makes sense. A pacer without a limit ends when it is not
// used, or when the backend has become fast.
func (p *pacer) bound() {
	switch {
	case p.limit > 0:
		p.rate = min(max(p.rate, paceLeast*p.limit), paceMost*p.limit)
	case p.rate == 0:
	case p.unused > paceRelease || p.rate > paceGrown*p.began:
		*p = pacer{carried: p.carried, kept: p.kept}
	default:
		p.rate = max(p.rate, paceLeast*p.began)
	}
}
