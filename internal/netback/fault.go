package netback

import (
	"sync/atomic"
	"time"
)

// Fault is a way for the backend to misbehave, to be switched on with
// [Faults.Inject]. Those named Tx are on the tx ring (guest to port), those named Rx
// on the rx ring. Each is done once per response or frame until its count is used up.
type Fault int

// Faults.
const (
	TxIDOutOfRange    Fault = iota // response with an id of 256 or more
	TxIDNotInFlight                // response with an id that no request has
	TxIDTwice                      // response repeats the id of the one before
	TxStatusError                  // response with NETIF_RSP_ERROR, the frame is delivered
	TxStatusDropped                // response with NETIF_RSP_DROPPED, the frame is delivered
	TxStatusUnknown                // response with a status that does not exist
	TxUnanswered                   // no response, ever
	TxOverflow                     // more responses published than the ring has slots
	TxIgnore                       // the ring is not looked at; counted per look
	TxMute                         // responses are published, the event is not sent
	RxIgnore                       // frames wait at the port; counted per look
	RxMute                         // responses are published, the event is not sent
	RxIDWrong                      // response's id is not its request's
	RxOffsetTooLarge               // data would end beyond its page, by the offset
	RxStatusTooLarge               // data would end beyond its page, by the size
	RxStatusError                  // response with NETIF_RSP_ERROR
	RxStatusGrant                  // response with a GNTST_* of a failed grant copy
	RxStatusZero                   // response with no data
	RxShort                        // first slot with less than an Ethernet header
	RxOverflow                     // more responses published than the ring has slots
	RxExtraMissing                 // extra_info is set and no extra follows
	RxExtraType                    // extra of a type that does not exist
	RxExtraEndless                 // extras to the ring's last request, each with MORE
	RxMoreDataEndless              // data to the ring's last request, each with more_data
	RxChainCut                     // more_data in the last slot, the rest never comes
	RxGSOSizeZero                  // GSO extra with size 0
	RxGSOTypeUnknown               // GSO extra with a type that does not exist
	RxGSOUnasked                   // GSO extra on any frame
	RxGSONoCsum                    // GSO frame without csum_blank
	RxGSOPrefix                    // deprecated flag gso_prefix is set
	RxCsumBlankOnAll               // csum_blank on any frame
	RxScribble                     // pages are written again after their response
	LostEOI                        // at a connect with one channel, its first EOI is lost
	NeverConnect                   // frontend's Connected is not acted on; per look
	numFaults
)

// Always is the count for a fault that lasts until [Faults.Clear].
const Always = 1 << 30

// Faults are the misbehaviour of one vif. Any goroutine may change them at any time.
// They outlast reconnects and rebinds.
type Faults struct {
	any  atomic.Bool // something was ever injected: the fast path's only look
	left [numFaults]atomic.Int32
	hold atomic.Int64 // nanoseconds
}

// Inject does f the next n times that there is an occasion.
func (f *Faults) Inject(kind Fault, n int) {
	f.left[kind].Store(int32(min(n, Always)))
	f.any.Store(true)
}

// Left is how many times f is still to be done.
func (f *Faults) Left(kind Fault) int { return int(f.left[kind].Load()) }

// HoldTx keeps every tx frame for d before it is delivered and answered, with its
// pages referenced in place, and answers what was held in random order: what a
// frame means that is stuck in a stalled peer's queue. Zero stops it; what is held
// stays so until its time.
func (f *Faults) HoldTx(d time.Duration) {
	f.hold.Store(int64(d))
	f.any.Store(true)
}

// Clear ends all faults. What the backend did not look at it looks at after the
// next event, or after [Vif.Kick].
func (f *Faults) Clear() {
	for i := range f.left {
		f.left[i].Store(0)
	}
	f.hold.Store(0)
	f.any.Store(false)
}

// take tells whether to do the fault now, and counts it.
func (f *Faults) take(kind Fault) bool {
	if !f.any.Load() {
		return false
	}
	for {
		n := f.left[kind].Load()
		if n <= 0 {
			return false
		}
		if n >= Always || f.left[kind].CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// holdFor is how long a tx frame is to be held now.
func (f *Faults) holdFor() time.Duration {
	if !f.any.Load() {
		return 0
	}
	return time.Duration(f.hold.Load())
}
