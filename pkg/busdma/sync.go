package busdma

// SyncOp says which transfer a Sync stands before or after, seen from the page's
// memory as in bus_dma(9): a read is the peer's writing of the page, a write is the
// peer's reading of it. Operations can be combined by or.
type SyncOp uint8

const (
	// PreRead: the peer is going to write the page.
	PreRead SyncOp = 1 << iota
	// PostRead: the peer has written the page. A bounced load is copied to its
	// buffer.
	PostRead
	// PreWrite: the peer is going to read the page. A bounced load is copied from
	// its buffer.
	PreWrite
	// PostWrite: the peer has read the page.
	PostWrite
)

// Sync moves the bytes of a bounced load between its buffer and its page; a load in
// place needs none. The order of a transmit is Load, Sync(PreWrite), Publish, then
// with the response Sync(PostWrite), Unload; of a receive it is Load,
// Sync(PreRead), Publish, Sync(PostRead), Unload.
//
// It fails with [ErrNotLoaded] when the map holds no load, and for PreWrite when it
// is in flight already: the peer may be reading. It orders nothing between
// processors; the ring's producer indices do.
func (t *Tag) Sync(m *Map, op SyncOp) error {
	if m == nil || m.self != m || m.tag != t {
		return m.refusal(t)
	}
	if state := m.State(); state != Loaded && (state != InFlight || op&PreWrite != 0) {
		return ErrNotLoaded
	}
	if m.bounce == nil {
		return nil
	}
	if op&PreWrite != 0 {
		copy(m.page, m.bounce)
		m.unsent = false
	}
	// What the peer cannot write needs no copy back.
	if op&PostRead != 0 && !t.config.ReadOnly {
		copy(m.bounce, m.page)
	}
	return nil
}
