package netback

import (
	"math/rand/v2"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// heldFrame is a frame that HoldTx keeps: its pages are mapped, and referenced in
// place, until it is due.
type heldFrame struct {
	txFrame
	due  time.Time
	maps []Page
}

func (w *txWorker) hold(f *txFrame, d time.Duration) {
	h := &heldFrame{txFrame: *f, due: time.Now().Add(d)}
	hold := func(ref uint32) {
		if m, err := w.pages.domain.MapGrant(w.pages.from, xen.GrantRef(ref), false); err == nil {
			h.maps = append(h.maps, m)
		}
	}
	hold(f.first.Ref)
	for _, s := range f.rest[:f.n] {
		if s.Size > 0 {
			hold(s.Ref)
		}
	}
	w.held = append(w.held, h)
}

// release delivers all held frames, in order, and answers their slots in random
// order, once the oldest is due, or now if it must.
func (w *txWorker) release(now bool) {
	if len(w.held) == 0 || !now && time.Now().Before(w.held[0].due) {
		return
	}
	type slot struct {
		id     uint16
		status int16
		extras int
	}
	var slots []slot
	for _, h := range w.held {
		w.write([]Outgoing{h.outgoing()}, []*txFrame{&h.txFrame})
		if h.drop != 0 {
			w.drop(h.drop)
		}
		slots = append(slots, slot{h.first.ID, h.status[0], h.extras})
		for i, s := range h.rest[:h.n] {
			slots = append(slots, slot{s.ID, h.status[1+i], 0})
		}
		for _, m := range h.maps {
			m.Unmap()
		}
	}
	w.held = nil
	rand.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
	for _, s := range slots {
		w.respond(s.id, s.status, s.extras)
	}
	w.push()
}
