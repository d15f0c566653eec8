package control

import (
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// Dump describes the rings of a vif: the frontend's view of what Linux's netback shows in
// debugfs as io_ring. Each queue's worker makes its part between two batches, so that all of
// one [RingDump] belongs to one moment.
type Dump struct {
	DevID        int         `json:"devid"`
	TAP          string      `json:"tap"`
	State        string      `json:"state"`
	BackendState string      `json:"backend_state"`
	Taken        time.Time   `json:"taken"`
	Queues       []QueueDump `json:"queues"`
}

// QueueDump is one queue pair.
type QueueDump struct {
	Number int       `json:"number"`
	Tx     *RingDump `json:"tx,omitempty"` // nil: its worker gave none
	Rx     *RingDump `json:"rx,omitempty"`
	// Problem is why one is missing: a worker that does not answer is stuck.
	Problem string `json:"problem,omitempty"`
}

// RingDump is one ring, its maps, and its event channel.
type RingDump struct {
	Ref    uint32 `json:"ref"`    // grant of the ring's page
	Port   uint32 `json:"port"`   // event channel
	Masked bool   `json:"masked"` // an event has come, and the channel is not unmasked yet
	Size   uint32 `json:"size"`   // slots
	// Shared are the words in the ring's page. The backend can write all of them.
	Shared ring.Header `json:"shared"`
	// ReqProd (req_prod_pvt), Published and RspCons are the frontend's own indices.
	ReqProd   uint32    `json:"req_prod_pvt"`
	Published uint32    `json:"published"` // what the frontend last stored in req_prod
	RspCons   uint32    `json:"rsp_cons"`
	Maps      MapCounts `json:"maps"`
	// Waiting says that a tx queue has frames to send and no maps or slots for them.
	Waiting bool `json:"waiting,omitempty"`
	// Partial is the number of responses that belong to an rx frame whose end is not there.
	Partial uint32 `json:"partial,omitempty"`
	// Responses are the first few responses that the worker has not taken, as bytes in
	// hexadecimal.
	Responses []string   `json:"responses,omitempty"`
	InFlight  []InFlight `json:"in_flight"` // maps without a response that was taken, oldest request first
}

// InFlight is one map that the backend may use: a part of a tx frame, or an rx buffer.
type InFlight struct {
	ID    uint16 `json:"id"`
	Ref   uint32 `json:"ref"`   // its grant
	Index uint32 `json:"index"` // of its request
	Slot  uint32 `json:"slot"`  // of the ring, in which the request was written
	// Age is how long it has been in flight, in seconds and to a second. It is of tx only: rx
	// buffers wait for frames.
	Age uint32 `json:"age_seconds,omitempty"`
}
