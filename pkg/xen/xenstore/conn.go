package xenstore

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
)

// connection carries requests and replies over one stream. Two goroutines own the two
// directions: the reader routes what comes in and never waits for anybody; the writer
// writes what is queued. So a caller can leave at any time, even while the other side
// does not read.
type connection struct {
	rw         io.ReadWriteCloser
	closeRW    func() error // rw.Close, once
	maxPayload int          // bytes of payload that the other side takes
	goroutines sync.WaitGroup
	dead       chan struct{} // closed when err is set
	work       chan struct{} // of one: tells the writer to look at queue

	mu        sync.Mutex
	err       error                // why the connection is dead
	queue     []*exchange          // to be written, in this order
	pending   map[uint32]*exchange // all that have no reply yet, by request id
	watchAcks []*exchange          // the written ones of pending that are WATCH or UNWATCH, oldest first
	watches   map[string]*Watch    // by token
	lastID    uint32
	lastToken uint64
	stats     Stats
}

// exchange is one request and its reply. The fields below done belong to the
// connection's lock.
type exchange struct {
	header  Header
	payload []byte
	done    chan reply // of one, so that the reader never waits

	written   bool // the writer has it, or had it
	abandoned bool // nobody waits for the reply, which must come all the same
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
		pending:    make(map[uint32]*exchange),
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
	// 0 is left out: it is what old kernels put into the acks of watches.
	for c.lastID++; c.lastID == 0 || c.pending[c.lastID] != nil; c.lastID++ {
	}
	call.header.Request = c.lastID
	c.pending[c.lastID] = call
	c.queue = append(c.queue, call)
	select {
	case c.work <- struct{}{}:
	default:
	}
	return nil
}

// detach queues a request whose reply nobody waits for. Requests of one connection are
// carried out in order, so there is nothing to wait for. The caller holds the lock.
func (c *connection) detach(typ MessageType, tx uint32, payload []byte) {
	// On a dead connection the server has ended everything by itself.
	_ = c.submit(&exchange{header: Header{Type: typ, Transaction: tx}, payload: payload, abandoned: true})
}

// abandon gives a call up. It says false if the reply is there already. What the
// request would leave behind in the server is undone.
func (c *connection) abandon(call *exchange) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[call.header.Request] != call {
		return false
	}
	if !call.written {
		c.queue = slices.DeleteFunc(c.queue, func(q *exchange) bool { return q == call })
		c.forget(call)
		return true
	}
	// The id stays taken until the late reply, which could else be another's.
	call.abandoned = true
	if call.header.Type == TypeWatch {
		c.detach(TypeUnwatch, 0, call.payload)
	}
	return true
}

// forget ends a call's claim to a reply. The caller holds the lock.
func (c *connection) forget(call *exchange) {
	delete(c.pending, call.header.Request)
	c.watchAcks = slices.DeleteFunc(c.watchAcks, func(w *exchange) bool { return w == call })
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
		for _, call := range c.pending {
			call.finish(reply{err: c.err})
		}
		c.queue, c.pending, c.watchAcks, c.watches = nil, nil, nil, nil
	}
	c.mu.Unlock()
	return c.closeRW()
}

func (x *exchange) finish(r reply) {
	if !x.abandoned {
		x.done <- r
	}
}
