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

// newDMA makes a queue's tag and the slab of maps pages of it. A tx tag is
// read-only to the backend.
func newDMA(grants busdma.Allocator, peer xen.DomID, readOnly bool, maps int) (*busdma.Tag, *busdma.Slab, error) {
	tag, err := newTag(grants, peer, readOnly)
	if err != nil {
		return nil, nil, err
	}
	slab, err := tag.AllocSlab(maps)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("grant %d pages: %w", maps, err), tag.Destroy())
	}
	return tag, slab, nil
}

// adoptDMA makes a queue's tag, and a slab of the pages that another process granted.
func adoptDMA(grants xen.Grants, peer xen.DomID, readOnly bool, r *slabRecord) (*busdma.Tag, *busdma.Slab, error) {
	tag, err := newTag(grants, peer, readOnly)
	if err != nil {
		return nil, nil, err
	}
	pages, err := grants.Remap(r.Index, r.refs())
	if err != nil {
		return nil, nil, errors.Join(err, tag.Destroy())
	}
	slab, err := tag.AdoptSlab(pages)
	if err != nil {
		return nil, nil, errors.Join(err, pages.Free(), tag.Destroy())
	}
	return tag, slab, nil
}

// closeDMA ends a queue's pool, slab and tag, in the order in which they stand on
// each other. Pool may be nil.
func closeDMA(pool *busdma.Pool, slab *busdma.Slab, tag *busdma.Tag) error {
	if pool != nil {
		if err := pool.Destroy(); err != nil {
			return fmt.Errorf("destroy pool: %w", err)
		}
	}
	if err := slab.Free(); err != nil {
		return fmt.Errorf("free slab: %w", err)
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
