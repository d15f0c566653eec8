package busdma

import "errors"

// Errors of this package. The operations of the data path return them as they are;
// those that set up and tear down wrap them with what failed. After an error the
// state is what it was before the call.
var (
	// ErrBusy says that something is still used: a slab by its maps, a tag by its
	// slabs, a pool by maps that are loaded or in flight, a page by another map.
	ErrBusy = errors.New("busdma: still in use")
	// ErrNotTaken says that the map is not in the state Taken: it is in its pool
	// (put twice), loaded already (double load), in flight or quarantined.
	ErrNotTaken = errors.New("busdma: map is not taken")
	// ErrNotLoaded says that the map holds no load that the operation could be for.
	ErrNotLoaded = errors.New("busdma: map is not loaded")
	// ErrNotSynced says that a bounced load of a read-only tag would be published
	// before Sync(PreWrite) has copied the buffer: the peer would read whatever the
	// page held before.
	ErrNotSynced = errors.New("busdma: bounced load is not synced")
	// ErrWrongTag says that the map, or the slab, is another tag's.
	ErrWrongTag = errors.New("busdma: not of this tag")
	// ErrWrongPool says that the map is not this pool's.
	ErrWrongPool = errors.New("busdma: not of this pool")
	// ErrCopied says that a Map was copied, as by ranging over a run by value. Only
	// the map in its place in the pool counts.
	ErrCopied = errors.New("busdma: copy of a map")
	// ErrNotContiguous says that a run is not one piece of one pool's maps, as
	// TakeRun hands it out.
	ErrNotContiguous = errors.New("busdma: run is not contiguous")
	// ErrTooLarge says that the buffer does not fit the tag's MaxSegmentSize and
	// MaxSegments, or the maps it was to be loaded into (EFBIG of bus_dma).
	ErrTooLarge = errors.New("busdma: buffer too large")
	// ErrBoundary says that a segment would cross the tag's Boundary, or that the
	// buffer lies only partly in the pages of the maps it was to be loaded into.
	ErrBoundary = errors.New("busdma: buffer crosses a boundary")
	// ErrEmpty says that the buffer has no bytes. The protocols above have no
	// meaning for a segment of none.
	ErrEmpty = errors.New("busdma: empty buffer")
	// ErrRange says that a number is out of range: a page of a slab, the size of a
	// slab or a pool, a limit of a tag.
	ErrRange = errors.New("busdma: out of range")
	// ErrQuarantined says that a page was quarantined. It is of no use until its
	// slab is freed and a new one allocated.
	ErrQuarantined = errors.New("busdma: page is quarantined")
	// ErrInProgress says that a load waits for a map, and that its callback will be
	// called when it has one (EINPROGRESS of bus_dma). It is no failure.
	ErrInProgress = errors.New("busdma: load in progress")
	// ErrCancelled is what the callback of a waiting load gets when its pool is
	// destroyed.
	ErrCancelled = errors.New("busdma: load cancelled")
	// ErrDestroyed says that the tag, slab, map or pool is gone.
	ErrDestroyed = errors.New("busdma: destroyed")
	// ErrCorrupt says that a PoolState contradicts itself.
	ErrCorrupt = errors.New("busdma: pool state is corrupt")

	errNoCallback = errors.New("busdma: load without a callback")
)
