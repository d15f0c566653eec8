package netback

import (
	"errors"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// Limits of Linux xen-netback (netback.c).
const (
	// maxSlots is how many data slots may follow a frame's first one
	// (XEN_NETBK_LEGACY_SLOTS_MAX). A frame with more is dropped.
	maxSlots = 18
	// fatalSlots is how many further data slots make the frontend malicious
	// (fatal_skb_slots, a module parameter).
	fatalSlots = 20
	// headerLen is how many bytes of a frame are copied, not referenced in place
	// (XEN_NETBACK_TX_COPY_LEN).
	headerLen = 128
)

// What a frontend must not do on the tx ring. Each disables the vif until it is
// created anew (xenvif_fatal_tx_err). [Vif.Fatal] returns one of them, wrapped.
var (
	ErrImpossibleRequests = errors.New("impossible number of requests")
	ErrUnpublishedSlots   = errors.New("more_data chain runs past the published requests")
	ErrTooManySlots       = errors.New("malicious number of slots in one frame")
	ErrCrossesPage        = errors.New("slot crosses its page's end")
	ErrMissingExtra       = errors.New("extra chain runs past the published requests")
	ErrExtraType          = errors.New("invalid type of extra")
	ErrGSOSize            = errors.New("GSO size is zero")
	ErrGSOType            = errors.New("bad GSO type")
)

// requests is the tx ring as the parser sees it: Request copies the i-th waiting
// slot. [ring.Back] is one.
type requests interface {
	Request(i uint32) netif.TxSlot
}

// frame is one frame's requests, copied off the tx ring. What is in it was checked
// and cannot be changed by the frontend any more; the pages it names can.
type frame struct {
	first  netif.TxRequest           // Size is that of the first slot's own data
	size   int                       // of the whole frame in bytes
	rest   [maxSlots]netif.TxRequest // further data slots
	n      int                       // how many of rest are used
	ids    [fatalSlots]uint16        // of all further data slots, also those that rest has no room for
	taken  int                       // how many of ids are used
	extras int                       // extra slots after the first
	gso    netif.Extra               // Type is ExtraNone if there was none
	mcast  netif.Extra               // the same for ExtraMcastAdd and ExtraMcastDel
	slots  uint32                    // ring slots taken, extras included
}

// parse copies and checks the frame that begins at the first of avail waiting
// slots; avail is at least one. It follows xenvif_tx_build_gops step by step, since
// the order decides whether a frame with two faults is dropped or fatal.
//
// With a fatal error the vif is to be disabled. With a drop reason all f.slots
// slots are to be answered with an error.
func (f *frame) parse(r requests, avail uint32) (drop DropReason, fatal error) {
	f.first = netif.ParseTxRequest(r.Request(0))
	f.size = int(f.first.Size)
	f.n, f.taken, f.extras, f.slots = 0, 0, 0, 1
	f.gso.Type, f.mcast.Type = netif.ExtraNone, netif.ExtraNone
	if f.first.Flags&netif.TxExtraInfo != 0 {
		if err := f.parseExtras(r, avail); err != nil {
			return 0, err
		}
	}
	if f.mcast.Type != netif.ExtraNone {
		return 0, nil // a message: the request's data means nothing
	}
	if drop, fatal = f.parseSlots(r, avail); drop != 0 || fatal != nil {
		return drop, fatal
	}
	if f.first.Size < netif.MinFirst {
		return DropShort, nil
	}
	if crosses(f.first) {
		return 0, fmt.Errorf("%w: offset %d, size %d", ErrCrossesPage, f.first.Offset, f.first.Size)
	}
	if f.gso.Type == netif.ExtraNone {
		return 0, nil
	}
	switch size, typ := f.gso.GSO(); {
	case size == 0:
		return 0, ErrGSOSize
	case typ != netif.GSOTCPv4 && typ != netif.GSOTCPv6:
		return 0, fmt.Errorf("%w: %d", ErrGSOType, typ)
	}
	return 0, nil
}

// parseExtras takes the extras, which follow the first slot. Of two of one type the
// last counts.
func (f *frame) parseExtras(r requests, avail uint32) error {
	for more := true; more; {
		if f.slots >= avail {
			return fmt.Errorf("%w: %d slots", ErrMissingExtra, avail)
		}
		slot := r.Request(f.slots)
		f.slots++
		f.extras++
		e, err := netif.ParseExtra([8]byte(slot[:8]))
		if errors.Is(err, netif.ErrExtraType) {
			return fmt.Errorf("%w: %d", ErrExtraType, e.Type)
		} // a bad GSO extra is judged later, once the slots were
		switch e.Type {
		case netif.ExtraGSO:
			f.gso = e
		case netif.ExtraMcastAdd:
			f.mcast = e
		case netif.ExtraMcastDel:
			if f.mcast.Type != netif.ExtraMcastAdd { // Linux looks for ADD first
				f.mcast = e
			}
		}
		more = e.Flags&netif.ExtraMore != 0
	}
	return nil
}

// parseSlots takes the further data slots and leaves in first.Size what remains for
// the first one (xenvif_count_requests).
func (f *frame) parseSlots(r requests, avail uint32) (drop DropReason, fatal error) {
	for more := f.first.Flags&netif.TxMoreData != 0; more; {
		if f.slots >= avail {
			return 0, fmt.Errorf("%w: %d slots", ErrUnpublishedSlots, avail)
		}
		if f.taken >= fatalSlots {
			return 0, fmt.Errorf("%w: more than %d", ErrTooManySlots, f.taken)
		}
		if drop == 0 && f.taken >= maxSlots {
			drop = DropSlots
		}
		s := netif.ParseTxRequest(r.Request(f.slots))
		f.ids[f.taken] = s.ID
		f.taken++
		f.slots++
		// A frame of 64 KiB or more overflowed the first slot's size. Buggy frontends
		// do that, so it is not fatal.
		if drop == 0 && s.Size > f.first.Size {
			drop = DropOversize
		}
		f.first.Size -= s.Size
		if crosses(s) {
			return 0, fmt.Errorf("%w: offset %d, size %d", ErrCrossesPage, s.Offset, s.Size)
		}
		if drop == 0 {
			f.rest[f.n] = s
			f.n++
		}
		more = s.Flags&netif.TxMoreData != 0
	}
	return drop, nil
}

// gsoType is the type of the frame's GSO extra, if it has one.
func (f *frame) gsoType() netif.GSOType {
	_, typ := f.gso.GSO()
	return typ
}

func crosses(s netif.TxRequest) bool {
	return int(s.Offset)+int(s.Size) > netif.PageSize
}
