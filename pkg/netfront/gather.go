package netfront

import "time"

const (
	// gatherMost is for how long frames of a TAP that is held back to a rate are gathered, at
	// most, gatherFrames how many of them may come meanwhile, and gatherWorth how many must
	// be expected for it to be worth while.
	gatherMost   = time.Millisecond
	gatherFrames = 16
	gatherWorth  = 2
	gatherFrame  = 1500 // bytes
	// gatherEmpty is after how many looks in a row that found nothing it ends.
	gatherEmpty = 2
)

// gatherTime is for how long frames are gathered that come at rate, in bytes a second; 0 is
// not at all.
func gatherTime(rate uint64) time.Duration {
	if rate == 0 {
		return 0
	}
	frame := time.Second * gatherFrame / time.Duration(rate)
	t := min(gatherMost, gatherFrames*frame)
	if t < gatherWorth*frame {
		return 0
	}
	return t
}

// gathering has a worker look at its TAP at times, while frames come so fast that each look
// finds some. The discipline that holds a TAP back to a rate gives it one frame at a time;
// each would make for a wake-up of the worker, a publication and an event for the backend.
// A frame that comes alone is taken at once.
type gathering struct {
	on     bool          // the TAP does not wake the worker
	due    time.Time     // no look before
	left   time.Duration // until then, when it was last asked for
	ticks  bool          // the worker's pause is until then, and not for something else
	frames uint64        // taken until the last look
	empty  int           // looks in a row that found nothing
}

// look decides whether the TAP is read now. Pause is for how long to gather, edge that the
// TAP has become readable, and frames how many were taken until now.
func (g *gathering) look(now time.Time, pause time.Duration, edge bool, frames uint64) (read bool) {
	if !g.on && !edge {
		return false
	}
	if pause == 0 {
		*g = gathering{}
		return true
	}
	if g.left = g.due.Sub(now); g.left > 0 {
		g.on = true
		return false
	}
	if frames != g.frames {
		g.empty = 0
	} else if g.empty++; g.empty >= gatherEmpty {
		g.on = false // and it is read once more, for what came before it wakes again
	}
	g.due, g.left, g.frames = now.Add(pause), pause, frames
	return true
}

// until is when the worker has to look again, given when it would otherwise; 0 is never.
func (g *gathering) until(pause time.Duration) time.Duration {
	g.ticks = g.on && (pause == 0 || g.left < pause)
	if g.ticks {
		return g.left
	}
	return pause
}
