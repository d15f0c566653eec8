package busdma

import (
	"fmt"
	"math/bits"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// TagConfig is what all maps of a tag have in common. The zero value of each limit
// stands for its default.
type TagConfig struct {
	// Peer is the domain that the pages are granted to.
	Peer xen.DomID
	// ReadOnly grants pages that Peer may read but not write. It is what a transmit
	// queue wants.
	ReadOnly bool
	// Boundary is a power of two of bytes, at most the default xen.PageSize. No
	// segment crosses a multiple of it, counted from the start of its page.
	Boundary int
	// MaxSegmentSize is the most bytes in one segment, at most the default
	// xen.PageSize.
	MaxSegmentSize int
	// MaxSegments is the most segments of one load, by default 1.
	MaxSegments int
}

// withDefaults checks the configuration and fills in what was left out.
func (c TagConfig) withDefaults() (TagConfig, error) {
	if c.Boundary == 0 {
		c.Boundary = xen.PageSize
	}
	if c.MaxSegmentSize == 0 {
		c.MaxSegmentSize = xen.PageSize
	}
	if c.MaxSegments == 0 {
		c.MaxSegments = 1
	}
	switch {
	case c.Boundary < 0 || c.Boundary > xen.PageSize || bits.OnesCount(uint(c.Boundary)) != 1:
		return c, fmt.Errorf("tag boundary of %d bytes: %w", c.Boundary, ErrRange)
	case c.MaxSegmentSize < 0 || c.MaxSegmentSize > xen.PageSize:
		return c, fmt.Errorf("tag segment size of %d bytes: %w", c.MaxSegmentSize, ErrRange)
	case c.MaxSegments < 0 || c.MaxSegments > MaxMaps:
		return c, fmt.Errorf("tag with %d segments: %w", c.MaxSegments, ErrRange)
	}
	return c, nil
}

// Segment is one piece of a loaded buffer as the peer is told of it: Len bytes
// from Offset in the page that Ref grants. A segment never leaves its page.
type Segment struct {
	Ref         xen.GrantRef
	Offset, Len uint16
}

// Tag is where maps come from: it says to whom and how their pages are granted,
// and which segments a load may give (bus_dma_tag_t). It belongs, with all that was
// made from it, to one goroutine at a time.
type Tag struct {
	grants    Allocator
	config    TagConfig
	piece     int // the most bytes of a bounced buffer that one map can carry
	slabs     int
	destroyed bool
}

// Allocator is the part of [xen.Grants] that a tag needs.
type Allocator interface {
	Alloc(peer xen.DomID, n int, writable bool) (xen.Pages, error)
}

// NewTag makes a tag whose pages come from g. It allocates none yet. It fails with
// [ErrRange] when cfg is impossible.
func NewTag(g Allocator, cfg TagConfig) (*Tag, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	// A bounced piece begins at the start of its page, so within the boundary it
	// crosses none.
	return &Tag{grants: g, config: cfg, piece: min(cfg.Boundary, cfg.MaxSegmentSize)}, nil
}

// Config returns the configuration, with the defaults filled in.
func (t *Tag) Config() TagConfig { return t.config }

// Destroy ends the tag. It fails with [ErrBusy] while a slab stands.
func (t *Tag) Destroy() error {
	if t.destroyed {
		return ErrDestroyed
	}
	if t.slabs != 0 {
		return fmt.Errorf("destroy tag with %d slabs: %w", t.slabs, ErrBusy)
	}
	t.destroyed = true
	return nil
}
