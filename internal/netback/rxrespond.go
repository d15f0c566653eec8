package netback

import "github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"

// respond answers the next request with a data slot's response, with whatever fault
// is on. Slot is the number of the data slot in its frame. It returns false if the
// fault was such that the frame ends here.
func (w *rxWorker) respond(f *rxFrame, slot int, r netif.RxResponse, page []byte) bool {
	if w.q.vif.faults.any.Load() {
		if slot == 0 && w.faultyFirst(f, &r) {
			return false
		}
		w.faultySlot(&r, page)
	}
	w.putResponse(r.Slot())
	return true
}

// respondExtra answers the next request with an extra. The request's page is not
// used.
func (w *rxWorker) respondExtra(e netif.Extra) {
	if w.q.vif.faults.any.Load() {
		w.faultyExtra(&e)
	}
	w.putResponse(e.Bytes())
}

// putResponse puts the response of the next request: rx responses come in the order
// of the requests.
func (w *rxWorker) putResponse(s netif.RxSlot) {
	w.ring.Consume(1)
	w.ring.Put(&s)
	w.q.counters.rxSlots.Add(1)
}

// faultySlot does the faults that any data slot can have.
func (w *rxWorker) faultySlot(r *netif.RxResponse, page []byte) {
	faults := &w.q.vif.faults
	switch {
	case faults.take(RxIDWrong):
		r.ID ^= 1
	case faults.take(RxOffsetTooLarge):
		r.Offset = netif.PageSize - 1
	case faults.take(RxStatusTooLarge):
		r.Offset, r.Status = 0, netif.PageSize+1
	case faults.take(RxStatusError):
		r.Status = netif.StatusError
	case faults.take(RxStatusGrant):
		r.Status = grantBadRef
	case faults.take(RxStatusZero):
		r.Status = 0
	case faults.take(RxScribble):
		w.scribble = append(w.scribble, page)
	}
}

// scribbleOver changes pages that are the guest's again.
func (w *rxWorker) scribbleOver() {
	for _, page := range w.scribble {
		for i := range min(len(page), 64) {
			page[i] ^= 0xff
		}
	}
	w.scribble = nil
}

// faultyFirst does the faults of a frame's first slot. It returns true if it has put
// the response itself.
func (w *rxWorker) faultyFirst(f *rxFrame, r *netif.RxResponse) bool {
	faults := &w.q.vif.faults
	switch {
	case faults.take(RxShort):
		r.Status, r.Flags = 5, 0
	case faults.take(RxOverflow):
		for range w.ring.Size() {
			s := r.Slot()
			w.ring.Put(&s)
		}
	case faults.take(RxExtraMissing):
		r.Flags |= netif.RxExtraInfo
	case faults.take(RxGSOPrefix):
		r.Flags |= netif.RxGSOPrefix
	case faults.take(RxCsumBlankOnAll):
		r.Flags |= netif.RxCsumBlank
	case f.gsoType != netif.GSONone && faults.take(RxGSONoCsum):
		r.Flags &^= netif.RxCsumBlank | netif.RxDataValidated
	case faults.take(RxChainCut):
		r.Flags |= netif.RxMoreData
	case faults.take(RxExtraType):
		w.withExtra(r, netif.Extra{Type: 200})
		return true
	case faults.take(RxGSOUnasked):
		w.withExtra(r, netif.NewGSO(1448, netif.GSOTCPv4))
		return true
	case faults.take(RxExtraEndless):
		r.Flags |= netif.RxExtraInfo
		w.putResponse(r.Slot())
		e := netif.Extra{Type: netif.ExtraHash, Flags: netif.ExtraMore}
		w.fill(e.Bytes())
		return true
	case faults.take(RxMoreDataEndless):
		r.Flags |= netif.RxMoreData
		w.putResponse(r.Slot())
		w.fill(netif.RxResponse{ID: r.ID, Flags: netif.RxMoreData, Status: netif.PageSize}.Slot())
		return true
	}
	return false
}

// faultyExtra does the faults of a GSO extra.
func (w *rxWorker) faultyExtra(e *netif.Extra) {
	size, typ := e.GSO()
	switch faults := &w.q.vif.faults; {
	case faults.take(RxGSOSizeZero):
		*e = netif.NewGSO(0, typ)
	case faults.take(RxGSOTypeUnknown):
		*e = netif.NewGSO(size, 9)
	}
}

// withExtra puts a first slot and an extra that does not belong to it.
func (w *rxWorker) withExtra(r *netif.RxResponse, e netif.Extra) {
	r.Flags |= netif.RxExtraInfo
	w.putResponse(r.Slot())
	if avail, err := w.ring.Requests(); err == nil && avail > 0 {
		w.putResponse(e.Bytes())
	}
}

// fill answers all requests that are there with the same slot.
func (w *rxWorker) fill(s netif.RxSlot) {
	avail, err := w.ring.Requests()
	if err != nil {
		return
	}
	for range avail {
		w.putResponse(s)
	}
}
