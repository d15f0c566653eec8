package netback

import "github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"

// nullID stands in the id of a response to an extra. Linux sets only the status
// there, so that the frontend finds what the extra's first bytes were: type 1, GSO,
// and no flags. No id is to be read from it.
const nullID = 1

// answer responds to a frame's slots, each with its own status.
func (w *txWorker) answer(f *txFrame) {
	w.respond(f.first.ID, f.status[0], f.extras)
	for i, s := range f.rest[:f.n] {
		w.respond(s.ID, f.status[1+i], 0)
	}
}

// answerAll responds to all of a frame's slots with one status (xenvif_tx_err).
func (w *txWorker) answerAll(f *frame, status int16) {
	w.respond(f.first.ID, status, f.extras)
	for _, id := range f.ids[:f.taken] {
		w.respond(id, status, 0)
	}
}

// respond puts the response of one request, and those of the extras that followed it.
func (w *txWorker) respond(id uint16, status int16, extras int) {
	w.ids[id&255] = false
	w.put(id, status)
	for range extras {
		s := netif.TxResponse{ID: nullID, Status: netif.StatusNull}.Slot()
		w.ring.Put(&s)
	}
	w.q.counters.txResponses.Add(uint64(1 + extras))
}

// put puts one data slot's response, with whatever fault is on.
func (w *txWorker) put(id uint16, status int16) {
	faults := &w.q.vif.faults
	r := netif.TxResponse{ID: id, Status: status}
	if faults.any.Load() {
		switch {
		case faults.take(TxUnanswered):
			return
		case faults.take(TxIDOutOfRange):
			r.ID = 256 + id
		case faults.take(TxIDNotInFlight):
			r.ID = w.idleID()
		case faults.take(TxIDTwice):
			r.ID = w.lastID
		case faults.take(TxStatusError):
			r.Status = netif.StatusError
		case faults.take(TxStatusDropped):
			r.Status = netif.StatusDropped
		case faults.take(TxStatusUnknown):
			r.Status = 77
		case faults.take(TxOverflow):
			for range w.ring.Size() {
				s := r.Slot()
				w.ring.Put(&s)
			}
		}
	}
	w.lastID = r.ID
	s := r.Slot()
	w.ring.Put(&s)
}

// idleID is an id that no request in the backend's hands has. The frontend may have
// published one with it since, but not if it gives out low ids first.
func (w *txWorker) idleID() uint16 {
	for id := len(w.ids) - 1; id > 0; id-- {
		if !w.ids[id] {
			return uint16(id)
		}
	}
	return 0
}

// push publishes the responses and tells the frontend if it asked for it.
func (w *txWorker) push() {
	if w.ring.Produced() == w.pushed {
		return
	}
	w.pushed = w.ring.Produced()
	w.q.counters.txPushes.Add(1)
	if !w.ring.Push() || w.q.vif.faults.take(TxMute) {
		return
	}
	w.q.counters.txNotifies.Add(1)
	w.events.Notify(w.channel)
}
