package netfront

import (
	"errors"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// newTag makes a queue's tag.
func newTag(grants busdma.Allocator, peer xen.DomID, readOnly bool) (*busdma.Tag, error) {
	segments := 1
	if readOnly {
		segments = txRun
	}
	tag, err := busdma.NewTag(grants, busdma.TagConfig{Peer: peer, ReadOnly: readOnly, MaxSegments: segments})
	if err != nil {
		return nil, fmt.Errorf("create DMA tag: %w", err)
	}
	return tag, nil
}

// newDMA makes a queue's tag, and a slab of pages that were granted as it says: read-only
// for tx. They stay the caller's.
func newDMA(grants busdma.Allocator, peer xen.DomID, readOnly bool, pages xen.Pages) (*busdma.Tag, *busdma.Slab, error) {
	tag, err := newTag(grants, peer, readOnly)
	if err != nil {
		return nil, nil, err
	}
	slab, err := tag.AdoptSlab(pages)
	if err != nil {
		return nil, nil, errors.Join(err, tag.Destroy())
	}
	return tag, slab, nil
}

// closeDMA ends a queue's pool, slab and tag, in the order in which they stand on
// each other. The pages stay granted. Pool may be nil.
func closeDMA(pool *busdma.Pool, slab *busdma.Slab, tag *busdma.Tag) error {
	if pool != nil {
		if err := pool.Destroy(); err != nil {
			return fmt.Errorf("destroy pool: %w", err)
		}
	}
	if _, err := slab.Release(); err != nil {
		return fmt.Errorf("end slab: %w", err)
	}
	if err := tag.Destroy(); err != nil {
		return fmt.Errorf("destroy DMA tag: %w", err)
	}
	return nil
}

// closeQueue ends a queue whose connection has ended.
func closeQueue(pool *busdma.Pool, slab *busdma.Slab, tag *busdma.Tag) error {
	pool.Abandon()
	return closeDMA(pool, slab, tag)
}
