package xenstore

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
)

// connection carries requests and replies over one stream. Two goroutines own the two
// directions: the reader routes what comes in and never waits for anybody; the writer
// writes what is queued. So a caller can leave at any time, even while the other side
// does not read.
//
// There is one request at a time: the next is written when the reply to the last is
// there. More would be mixed up by the kernel's device, which since Linux 4.11 returns
// from write(2) before it has sent the payload, and keeps it in a buffer that the next
// write(2) overwrites (xenbus_dev_request_and_reply). It also means that the server
// has carried out everything in the order in which it was queued.
type connection struct {
	rw         io.ReadWriteCloser
	closeRW    func() error // rw.Close, once
	maxPayload int          // bytes of payload that the other side takes
	goroutines sync.WaitGroup
	dead       chan struct{} // closed when err is set
	work       chan struct{} // of one: tells the writer to look at queue and current

	mu        sync.Mutex
	err       error             // why the connection is dead
	queue     []*exchange       // to be written, in this order
	current   *exchange         // written, or being written, without a reply yet
	watches   map[string]*Watch // by token
	lastID    uint32
	lastToken uint64
	stats     Stats

	// branches are the streams of single watches, which end with this one. A branch has a
	// trunk instead.
	branches map[*connection]struct{}
	trunk    *connection
}

// exchange is one request and its reply.
type exchange struct {
	header    Header
	payload   []byte
	done      chan reply // of one, so that the reader never waits
	abandoned bool       // nobody waits for the reply; belongs to the connection's lock
}

type reply struct {
	payload []byte
	err     error
}

func newConnection(rw io.ReadWriteCloser, maxPayload int) *connection {
	c := &connection{
		rw:         rw,
		closeRW:    sync.OnceValue(rw.Close),
		maxPayload: maxPayload,
		dead:       make(chan struct{}),
		work:       make(chan struct{}, 1),
		watches:    make(map[string]*Watch),
	}
	c.goroutines.Go(c.readAll)
	c.goroutines.Go(c.writeAll)
	return c
}

// request sends one request and waits for its reply. When ctx ends first the reply
// will be dropped.
func (c *connection) request(ctx context.Context, typ MessageType, tx uint32, payload []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// xenstored drops a connection that sends more.
	if len(payload) > c.maxPayload {
		return nil, fmt.Errorf("%w: %d bytes of payload, at most %d", ErrTooBig, len(payload), c.maxPayload)
	}
	call := &exchange{header: Header{Type: typ, Transaction: tx}, payload: payload, done: make(chan reply, 1)}
	c.mu.Lock()
	err := c.submit(call)
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case r := <-call.done:
		return r.payload, r.err
	case <-ctx.Done():
	}
	if !c.abandon(call) {
		r := <-call.done // it came at the same moment, and may be a transaction to end
		return r.payload, r.err
	}
	return nil, ctx.Err()
}

// submit queues a request. The caller holds the lock.
func (c *connection) submit(call *exchange) error {
	if c.err != nil {
		return c.err
	}
	c.queue = append(c.queue, call)
	c.wakeWriter()
	return nil
}

// detach queues a request whose reply nobody waits for. The caller holds the lock.
func (c *connection) detach(typ MessageType, tx uint32, payload []byte) {
	// On a dead connection the server has ended everything by itself.
	_ = c.submit(&exchange{header: Header{Type: typ, Transaction: tx}, payload: payload, abandoned: true})
}

// abandon gives a call up. It says false if the reply is there already. What the
// request would leave behind in the server is undone.
func (c *connection) abandon(call *exchange) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.queue, call); i >= 0 {
		c.queue = slices.Delete(c.queue, i, i+1)
		return true
	}
	if c.current != call {
		return false
	}
	// It stays the current one until the late reply has come.
	call.abandoned = true
	if call.header.Type == TypeWatch && c.trunk == nil { // a branch ends with it
		c.detach(TypeUnwatch, 0, call.payload)
	}
	return true
}

// fail ends the connection because of cause, nil if it was closed by its owner.
func (c *connection) fail(cause error) error {
	c.mu.Lock()
	if c.err == nil {
		c.err = ErrClosed
		if cause != nil {
			c.err = fmt.Errorf("%w: %w", ErrClosed, cause)
		}
		close(c.dead)
		if c.current != nil {
			c.current.finish(reply{err: c.err})
		}
		for _, call := range c.queue {
			call.finish(reply{err: c.err})
		}
		c.queue, c.current, c.watches = nil, nil, nil
	}
	c.mu.Unlock()
	for _, b := range c.growing() {
		_ = b.fail(cause)
	}
	return c.closeRW()
}

// branch makes the connection of one watch out of a stream of its own.
func (c *connection) branch(rw io.ReadWriteCloser) (*connection, error) {
	b := newConnection(rw, c.maxPayload)
	b.trunk = c
	c.mu.Lock()
	err := c.err
	if err == nil {
		if c.branches == nil {
			c.branches = make(map[*connection]struct{})
		}
		c.branches[b] = struct{}{}
	}
	c.mu.Unlock()
	if err != nil {
		b.cut()
		return nil, err
	}
	return b, nil
}

// growing are the branches that there are.
func (c *connection) growing() []*connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.branches))
}

// cut ends a branch and waits until nothing of it runs.
func (b *connection) cut() {
	_ = b.fail(nil)
	b.goroutines.Wait()
	b.trunk.mu.Lock()
	delete(b.trunk.branches, b)
	b.trunk.mu.Unlock()
}

// finish gives the caller, if there still is one, the reply.
func (x *exchange) finish(r reply) {
	if !x.abandoned {
		x.done <- r
	}
}

func (c *connection) wakeWriter() {
	select {
	case c.work <- struct{}{}:
	default:
	}
}
