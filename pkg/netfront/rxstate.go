package netfront

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// rxState is what the next process needs of an rxQueue to go on, as [txState] is of a
// txQueue. An rx response belongs to the request at its own ring position, whatever its
// id says, so that posted is the id table.
//
// Maps are posted again in ring order, so at every instant the last maps' worth of
// positions names each map once: those before rsp_cons were consumed and wait to be
// posted, the others are posted. The states in the pool say nothing more, and are not
// believed. Responses are consumed before their frames are written to the TAP: a frame
// is handed in at most once.
type rxState struct {
	ring   ring.FrontState
	pool   busdma.PoolState
	posted [busdma.MaxMaps]uint16 // map in each ring slot
}

// adoptRxQueue goes on where another process's queue was left, in the middle of any
// step. It fails with an error that wraps [ErrHandover] when that cannot be made sense of.
func adoptRxQueue(state *rxState, page []byte, tag *busdma.Tag, slab *busdma.Slab, out frameWriter, notify func() error) (*rxQueue, error) {
	q, err := rxQueueOn(state, tag, slab, out, notify)
	if err != nil {
		return nil, err
	}
	if err := q.resume(page); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: rx %w", ErrHandover, err), unix.Munmap(q.heads))
	}
	return q, nil
}

// resume adopts ring and pool, and posts what was consumed and not posted.
func (q *rxQueue) resume(page []byte) (err error) {
	if q.ring, err = ring.AdoptFront[netif.RxSlot](page, &q.state.ring); err != nil {
		return err
	}
	maps := uint32(q.slab.Pages())
	first := q.ring.Produced() - maps
	var seen [busdma.MaxMaps]bool
	for i := range maps {
		id := q.state.posted[(first+i)&(q.ring.Size()-1)]
		if uint32(id) >= maps || seen[id] {
			return fmt.Errorf("ring slot %d has map %d, of %d, out of place", first+i, id, maps)
		}
		seen[id] = true
	}
	consumed := q.ring.Consumed() - first
	if consumed > maps {
		return fmt.Errorf("%d responses consumed of %d buffers", consumed, maps)
	}
	if q.pool, err = busdma.AdoptPool(q.tag, q.slab, &q.state.pool, func(int, busdma.State) bool { return true }); err != nil {
		return err
	}
	if n := q.pool.Counts().InFlight; n != int(maps) {
		return fmt.Errorf("%d of %d maps are good", n, maps)
	}
	crashPoint(crashAdoptQueue)
	if err := q.repostMaps(first, consumed); err != nil {
		return err
	}
	q.ring.Push()
	q.publish()
	return nil
}
