package netfront

import (
	"encoding/binary"
	"math"
	"sync/atomic"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// entryKind is what a captureEntry tells.
type entryKind uint8

const (
	entrySlot     entryKind = iota + 1 // a data slot of the frame to come
	entryExtra                         // an extra of the frame to come
	entryFrame                         // a frame, whose slots and extras came before
	entryResponse                      // the response to a tx slot
)

// captureEntry is one line of what a queue's worker tells of its ring.
type captureEntry struct {
	kind   entryKind
	cause  uint8  // frame: the counter of its loss; 0 if it was handed on
	id     uint16 // slot, response; frame: how many were dropped before it
	flags  uint16 // slot
	offset uint16 // slot
	size   int32  // slot: bytes, or rx's status; frame: bytes; response: status
	index  uint32 // slot, extra: on the ring; frame: how many of its bytes were copied
	value  uint64 // frame, response: nanoseconds since 1970; extra: its eight bytes
}

// recorder is what leaves a queue that is captured: a ring of entries, and one of the
// frames' bytes, each with one producer, the queue's worker, and one consumer, the
// captureQueue. All memory is there from the beginning. The worker never waits: what does
// not fit is dropped, whole frames only, and counted. Once a tx frame was recorded there is
// room for its responses.
//
// The methods of the worker's side that the queues call for every slot do nothing on a
// nil recorder, and are inlined: a queue that is not captured pays for a look at a
// pointer.
type recorder struct {
	tx      bool
	snapLen int
	entries []captureEntry // a power of two
	data    []byte         // a power of two
	wake    chan<- struct{}

	head     atomic.Uint64 // entries published; the worker's
	dropped  atomic.Uint64 // frames; the worker's
	tail     atomic.Uint64 // entries read; the consumer's
	dataTail atomic.Uint64 // bytes read; the consumer's

	// All below belongs to the worker.
	now      int64 // nanoseconds since 1970, of the batch
	next     uint64
	whole    uint64 // entries before it are whole frames
	dataNext uint64
	dataHead uint64 // bytes before it are of whole frames
	slots    uint64 // data slots of the frame that is being put together
	full     bool   // it does not fit
	owed     uint64 // entries kept free for responses
	missed   uint16 // frames dropped since the last one that was not
	open     [busdma.MaxMaps]bool
	// batch has the entry of each frame of an rx batch that is on its way to the TAP, or
	// noEntry.
	batch [rxBatch]uint64
}

const noEntry = ^uint64(0)

// newRecorder makes a recorder with room for size bytes of frames, a power of two.
func newRecorder(tx bool, snapLen, size int, wake chan<- struct{}) *recorder {
	return &recorder{
		tx: tx, snapLen: snapLen, wake: wake,
		entries: make([]captureEntry, size/bytesPerEntry), data: make([]byte, size),
	}
}

// bytesPerEntry is for how many bytes of frames there is one entry. A small frame takes
// two on rx and three on tx.
const bytesPerEntry = 64

// clock takes the time of the batch to come.
func (r *recorder) clock() {
	if r != nil {
		r.setClock()
	}
}

func (r *recorder) setClock() { r.now = time.Now().UnixNano() }

// request notes a tx slot of the frame that is being put together.
func (r *recorder) request(index uint32, q netif.TxRequest) {
	if r != nil {
		r.slot(index, q.ID, q.Flags, q.Offset, int32(q.Size))
	}
}

// answer notes an rx slot of the frame that is being put together.
func (r *recorder) answer(index uint32, a netif.RxResponse) {
	if r != nil {
		r.slot(index, a.ID, a.Flags, a.Offset, int32(a.Status))
	}
}

// extra notes an extra of the frame that is being put together.
func (r *recorder) extra(index uint32, b [8]byte) {
	if r != nil {
		r.add(captureEntry{kind: entryExtra, index: index, value: binary.LittleEndian.Uint64(b[:])})
	}
}

//go:noinline
func (r *recorder) slot(index uint32, id, flags, offset uint16, size int32) {
	r.add(captureEntry{kind: entrySlot, index: index, id: id, flags: flags, offset: offset, size: size})
	r.slots++
}

// add appends an entry, if there is room. It stays out of the callers of its callers, as
// do slot and addResponse: there is nothing of a capture in the queues but a condition.
//
//go:noinline
func (r *recorder) add(e captureEntry) {
	if r.next-r.tail.Load()+r.owed >= uint64(len(r.entries)) {
		r.full = true
		return
	}
	*r.at(r.next) = e
	r.next++
}

// copy takes b, the next bytes of the frame that is being put together, up to the
// capture's length.
func (r *recorder) copy(b []byte) {
	b = b[:min(len(b), r.snapLen-int(r.dataNext-r.dataHead))]
	if r.dataNext-r.dataTail.Load()+uint64(len(b)) > uint64(len(r.data)) {
		r.full = true
		return
	}
	n := copy(r.data[r.dataNext&uint64(len(r.data)-1):], b)
	copy(r.data, b[n:])
	r.dataNext += uint64(len(b))
}

// frame ends the frame that is being put together, of length bytes, with the counter of
// its loss, or 0. It returns its entry, or noEntry if there was no room for it.
func (r *recorder) frame(length int, cause counter) uint64 {
	r.add(captureEntry{kind: entryFrame, cause: uint8(cause), id: r.missed, size: int32(length), index: uint32(r.dataNext - r.dataHead), value: uint64(r.now)})
	if r.full || !r.reserve() {
		r.dropped.Add(1)
		r.missed += min(1, math.MaxUint16-r.missed)
		r.forget()
		return noEntry
	}
	r.whole, r.dataHead, r.slots, r.missed = r.next, r.dataNext, 0, 0
	return r.whole - 1
}

// private ends a frame whose bytes are all in b.
func (r *recorder) private(b []byte, cause counter) {
	r.copy(b)
	r.frame(len(b), cause)
}

// reserve keeps entries free for the responses to a tx frame, and tells whether it can.
func (r *recorder) reserve() bool {
	if !r.tx {
		return true
	}
	if r.next-r.tail.Load()+r.owed+r.slots > uint64(len(r.entries)) {
		return false
	}
	for i := r.whole; i != r.next; i++ {
		if e := r.at(i); e.kind == entrySlot {
			r.open[e.id] = true
		}
	}
	r.owed += r.slots
	return true
}

func (r *recorder) at(i uint64) *captureEntry { return &r.entries[i&uint64(len(r.entries)-1)] }

// forget gives up the frame that is being put together.
func (r *recorder) forget() {
	if r != nil {
		r.next, r.dataNext, r.slots, r.full = r.whole, r.dataHead, 0, false
	}
}

// response notes the response to a tx slot, when no frame is being put together.
func (r *recorder) response(id uint16, status int16) {
	if r != nil {
		r.addResponse(id, status)
	}
}

//go:noinline
func (r *recorder) addResponse(id uint16, status int16) {
	if !r.open[id] {
		return // its frame was before the capture, or dropped
	}
	r.open[id] = false
	r.owed--
	*r.at(r.next) = captureEntry{kind: entryResponse, id: id, size: int32(status), value: uint64(r.now)}
	r.next++
	r.whole = r.next
}

// lose says of the i-th frame of an rx batch that it was lost.
func (r *recorder) lose(i int, cause counter) {
	if r != nil && r.batch[i] != noEntry {
		r.at(r.batch[i]).cause = uint8(cause)
	}
}

// publish gives the consumer what is whole.
func (r *recorder) publish() {
	if r == nil || r.head.Load() == r.whole {
		return
	}
	r.head.Store(r.whole)
	select {
	case r.wake <- struct{}{}:
	default: // it is about to look
	}
}
