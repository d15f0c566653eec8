package netback

import "sync/atomic"

// DropReason says why a frame did not get through. Zero is no drop.
type DropReason uint8

// The first three are answered with an error for every slot of the frame, as is a
// bad grant for its slot. Those that follow are found out only
// after the slots were answered with OKAY: the frontend never learns of them. The
// last group is of the other way, port to guest.
const (
	DropSlots    DropReason = iota + 1 // more than 18 data slots after the first
	DropOversize                       // slots are larger than the frame says it is
	DropShort                          // less than an Ethernet header in the first slot
	DropGrant                          // the grant is dead, or not for this domain

	DropCsumNotIP     // csum_blank or GSO on what is not untagged IP
	DropCsumFragment  // csum_blank or GSO on an IP fragment
	DropCsumProtocol  // csum_blank or GSO on what is not TCP or UDP
	DropCsumTruncated // csum_blank or GSO on headers that do not fit the frame
	DropGSOFamily     // GSO extra does not fit the frame's protocol
	DropGSOHeader     // GSO frame with a malformed TCP header, or no payload
	DropPort          // the port did not take it

	DropExpired   // no rx slots within the drain timeout
	DropTooLarge  // needs more slots than the frontend can take without feature-sg
	DropMcast     // multicast address that the frontend did not ask for
	DropMalformed // came from the port with a header that does not fit it
	DropDisabled  // the vif is disabled, or not connected
	numDropReasons
)

var dropNames = [numDropReasons]string{
	"none", "too many slots", "slots larger than the frame", "first slot too short", "bad grant",
	"checksum: not IP", "checksum: fragment", "checksum: not TCP or UDP", "checksum: truncated",
	"GSO: wrong protocol", "GSO: bad header", "port refused",
	"expired", "too large", "multicast filter", "malformed", "disabled",
}

// String names the reason.
func (d DropReason) String() string { return dropNames[min(d, numDropReasons-1)] }

// counters are one queue's. Each is added to by one worker and read by anybody.
type counters struct {
	txFrames, txBytes, txSlots, txResponses, txPushes, txNotifies, txEvents, txSpurious atomic.Uint64
	rxFrames, rxBytes, rxSlots, rxPushes, rxNotifies, rxEvents, rxSpurious              atomic.Uint64
	csumFixups, creditWaits, rxCopyErrors, rxSegmented                                  atomic.Uint64

	drops [numDropReasons]atomic.Uint64
}

// Stats are a vif's counters since it was created, all queues together. Tx is guest
// to port, rx port to guest, as the guest sees it.
type Stats struct {
	TxFrames    uint64 // handed to the port
	TxBytes     uint64
	TxSlots     uint64 // requests taken, extras included
	TxResponses uint64 // slots answered
	TxPushes    uint64 // times that responses were published
	TxNotifies  uint64 // events sent for them
	TxEvents    uint64 // events received
	TxSpurious  uint64 // of these, with nothing to do
	RxFrames    uint64 // written into the guest's pages
	RxBytes     uint64
	RxSlots     uint64 // requests used, extras included
	RxPushes    uint64
	RxNotifies  uint64
	RxEvents    uint64
	RxSpurious  uint64

	CsumFixups   uint64 // GSO frames that lacked csum_blank (rx_gso_checksum_fixup)
	CreditWaits  uint64 // times that rate stopped the tx ring
	RxCopyErrors uint64 // rx slots answered with a GNTST_* error
	RxSegmented  uint64 // super-frames cut here, since the frontend takes none

	Drops [numDropReasons]uint64 // by [DropReason]
}

func (c *counters) addTo(s *Stats) {
	for _, f := range []struct {
		to   *uint64
		from *atomic.Uint64
	}{
		{&s.TxFrames, &c.txFrames}, {&s.TxBytes, &c.txBytes}, {&s.TxSlots, &c.txSlots},
		{&s.TxResponses, &c.txResponses}, {&s.TxPushes, &c.txPushes},
		{&s.TxNotifies, &c.txNotifies}, {&s.TxEvents, &c.txEvents}, {&s.TxSpurious, &c.txSpurious},
		{&s.RxFrames, &c.rxFrames}, {&s.RxBytes, &c.rxBytes}, {&s.RxSlots, &c.rxSlots},
		{&s.RxPushes, &c.rxPushes},
		{&s.RxNotifies, &c.rxNotifies}, {&s.RxEvents, &c.rxEvents}, {&s.RxSpurious, &c.rxSpurious},
		{&s.CsumFixups, &c.csumFixups}, {&s.CreditWaits, &c.creditWaits},
		{&s.RxCopyErrors, &c.rxCopyErrors}, {&s.RxSegmented, &c.rxSegmented},
	} {
		*f.to += f.from.Load()
	}
	for i := range s.Drops {
		s.Drops[i] += c.drops[i].Load()
	}
}

// Dropped is the number of frames dropped, all reasons together.
func (s Stats) Dropped() (n uint64) {
	for _, d := range s.Drops {
		n += d
	}
	return n
}
