// Package busdma is bus_dma(9) over Xen grants: it gives out pages that another
// domain may map, keeps account of who has each, and turns buffers into the segments
// (grant reference, offset, length) that go into a ring's slots.
//
// # Where it comes from
//
// FreeBSD's review D18553 put netfront on a bus_dma whose "bus addresses" are grant
// references, with the following system. Each queue has a DMA tag of its own,
// because loads on one tag must be serialised. Each queue has a pool of DMA maps. A
// map stands for one grant reference, held from its creation to its destruction.
// Whenever a grant is needed a map is taken out of the pool, and whenever it is
// released the map is put back. The same system is [Tag], [Pool] and [Map] here,
// with [Slab] for the memory below.
//
// It fits a Linux process better than it fits a kernel. A process cannot grant
// memory of its own: the kernel's gntalloc allocates the pages, and a page's peer
// and mode are fixed for its life. So maps in a fixed pool are what there is anyway.
//
// # Use
//
// A tag says to whom and how pages are granted, and what a segment may be. A slab is
// a number of such pages in one mapping, and a pool one map for each of them:
//
//	tag, err := busdma.NewTag(guest.Grants, busdma.TagConfig{Peer: backend, ReadOnly: true, MaxSegments: 18})
//	slab, err := tag.AllocSlab(256)
//	pool, err := busdma.NewPool(tag, slab, nil)
//
// A packet that is read straight into the pages of taken maps is loaded in place:
//
//	run, ok := pool.TakeRun(17)
//	start := run[0].Index() * xen.PageSize
//	n, err := read(slab.Bytes()[start:start+17*xen.PageSize])
//	segs, err := tag.LoadRun(run, slab.Bytes()[start:start+n], segs[:0])
//	// for each map that was loaded: Sync(PreWrite), Publish; the other maps: Put
//	// for each response: Sync(PostWrite), Unload, Put
//
// A packet anywhere else is bounced: Load notes the buffer and Sync copies it into
// the page before the peer reads it, or out of the page after the peer has written.
//
// # The states of a map
//
//	+--------+ Take, TakeRun +-------+ Load, LoadRun +--------+ Publish +----------+
//	| Pooled |-------------->| Taken |-------------->| Loaded |-------->| InFlight |
//	|        |<--------------|       |<--------------|        |         |          |
//	+--------+ Put, PutRun   |       | Unload        +--------+         |          |
//	                         |       |<-------------------|-------------|          |
//	                         +-------+ Unload             |             +----------+
//	                             | Quarantine             | Quarantine,      | Quarantine,
//	                             v                        v Abandon          v Abandon
//	                         +---------------------------------------------------------+
//	                         | Quarantined                until the pool is destroyed  |
//	                         +---------------------------------------------------------+
//
// Every map of a pool is in one of them at any time, so free (pooled or taken) +
// loaded + in flight + quarantined = created: [Pool.Counts], [Pool.Check].
//
// Quarantine is where a page goes that the peer may still have mapped though it is
// due: the connection is gone, or the peer has lied about the page. In a kernel the
// driver can ask whether a grant is in use; the review's code did, and panicked when
// the backend kept one. Here nobody can ask. So the page is not used again, and its
// map cannot be, until pool and slab go and new ones come: the kernel then holds the
// page back by itself until the peer lets go.
//
// # Owner
//
// A tag and all that was made from it belong to one goroutine at a time. There is no
// lock, no atomic and no channel in the package, and nothing is shared between two
// tags, so that each queue can have its own and never wait. Neither Take and Put nor
// anything between them allocates, and each costs a few nanoseconds: a byte of state,
// a bit in a bitmap and two sums.
//
// Misuse is an error and changes nothing: a map loaded or put back twice, one of
// another tag, a copy of one, a buffer that does not fit, the destruction of what is
// in use. A [Pool] keeps its states in a [PoolState], without pointers, which another
// process can go on with ([AdoptPool]).
//
// # Differences from bus_dma(9)
//
//   - One map is one page, one grant reference and one segment. A load of several
//     pages takes several maps ([Tag.LoadRun]), and segments are not merged.
//   - Maps are never made at load: references are always preallocated
//     (BUS_DMA_XEN_PREALLOC_REFS), and read-only (BUS_DMA_XEN_RO) is a tag's
//     property, not a load's.
//   - A buffer in place that breaks a limit of the tag is an error. It cannot be
//     bounced: the bounce page would be its own.
//   - Load returns the segments. The callback of bus_dmamap_load is there as
//     [Tag.LoadFunc], and with a wait for a map as [Pool.LoadFunc]. Its callback is
//     called exactly once in every case, and the error is returned as well.
//   - What waits is waiting for a map of one pool, in order; after any wait only
//     destruction can fail a load. The original's own notes say that an unload before
//     a deferred completion crashes and that two deferred loads on one map mix; here
//     a load has no map before it completes.
//   - [Tag.Publish] and [Tag.Quarantine] are new. bus_dma trusts its device.
//   - Sync returns an error, and orders no memory accesses: the ring does.
//
// # Stability
//
// From version 1.0.0 of the module on, the package follows Go's rules of compatibility, and the layout
// of a [PoolState] stays what other processes can go on with.
package busdma
