package netfront

import (
	"math/bits"
	"sync/atomic"
)

// counter names one figure of a queue.
type counter int

// The figures of a txQueue and an rxQueue. Frames and bytes are Ethernet frames as
// the TAP sees them, without the virtio header.
const (
	cPackets counter = iota
	cBytes
	cSlots            // ring slots, extras among them
	cBatches          // publications of req_prod
	cNotifySent       // events raised at the backend
	cNotifySuppressed // publications that the backend did not want to hear of
	cEvents           // events received
	cEventsSpurious   // events that found nothing to do
	cSuperFrames      // frames handed over with a GSO extra
	cBounced          // frames copied into maps; the others were read in place
	cCsumSoftware     // checksums finished here, since they could not be offloaded
	cSegmented        // super-frames cut here
	cCsumGuessed      // rx: data_validated frames handed in with a pseudo-header sum
	cGSOFixup         // rx: super-frames without csum_blank
	cParked           // tx: times that the queue waited for maps or slots
	cDropTooBig       // frames that the ring cannot carry
	cDropMalformed    // frames with headers that do not fit them
	cDropRefused      // tx: the kernel could not hand the frame over; the reader counts, see txStatus
	cDropTapError     // rx: the TAP refused the frame
	cDropBackendError // rx: the backend answered with an error
	cDropSlots        // rx: chains of more slots than a frame can have
	cBackendError     // tx: responses with status ERROR
	cBackendDropped   // tx: responses with status DROPPED
	cAnnounced        // frames made here to announce addresses
	cBatchSizes       // batches of one slot; then those of 2 or more, of 4 ... of 128
	numCounters       = cBatchSizes + batchSizes
)

var counterNames = [numCounters]string{
	"packets", "bytes", "slots", "batches", "notify_sent", "notify_suppressed",
	"events", "events_spurious", "super_frames", "bounced", "csum_software",
	"segmented", "csum_from_validated", "gso_fixup", "parked", "drop_too_big", "drop_malformed",
	"drop_refused", "drop_tap_error", "drop_backend_error", "drop_slots", "backend_error",
	"backend_dropped", "announced",
	"batch_1", "batch_2", "batch_4", "batch_8", "batch_16", "batch_32", "batch_64", "batch_128",
}

// counters are a queue's figures. The owner adds to its own plain copy and
// publishes it after each batch; anybody may read what was published.
type counters struct {
	own       [numCounters]uint64
	published [numCounters]atomic.Uint64
}

func (c *counters) add(k counter, n uint64) { c.own[k] += n }

// batchSizes is into how many sizes batches are counted, each twice the one before.
const batchSizes = 8

// pushed notes that n requests were published, and lets notify raise the event if the
// backend asked for one.
func (c *counters) pushed(n uint32, asked bool, notify func() error) error {
	c.add(cBatches, 1)
	c.add(cBatchSizes+counter(min(bits.Len32(n|1), batchSizes)-1), 1)
	if !asked {
		c.add(cNotifySuppressed, 1)
		return nil
	}
	c.add(cNotifySent, 1)
	return notify()
}

// publish makes the owner's figures visible.
func (c *counters) publish() {
	for k := range c.own {
		// Only this goroutine stores, so that a load tells whether it must.
		if c.published[k].Load() != c.own[k] {
			c.published[k].Store(c.own[k])
		}
	}
}

// snapshot returns the published figures that are not zero, by name.
func (c *counters) snapshot() map[string]uint64 {
	m := make(map[string]uint64)
	for k := range c.published {
		if v := c.published[k].Load(); v != 0 {
			m[counterNames[k]] = v
		}
	}
	return m
}

// gauge is a pool's counts as its owner last published them: in one
// word, 12 bits for each count, so that a reader never sees counts of two moments.
type gauge struct{ packed atomic.Uint64 }

const gaugeBits = 12

func (g *gauge) publish(c MapCounts) {
	v := uint64(c.Free) | uint64(c.Loaded)<<gaugeBits | uint64(c.InFlight)<<(2*gaugeBits) |
		uint64(c.Quarantined)<<(3*gaugeBits) | uint64(c.Created)<<(4*gaugeBits)
	if g.packed.Load() != v {
		g.packed.Store(v)
	}
}

func (g *gauge) read() MapCounts {
	v := g.packed.Load()
	at := func(i int) uint32 { return uint32(v>>(i*gaugeBits)) & (1<<gaugeBits - 1) }
	return MapCounts{Free: at(0), Loaded: at(1), InFlight: at(2), Quarantined: at(3), Created: at(4)}
}
