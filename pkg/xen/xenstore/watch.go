package xenstore

import (
	"context"
	"strconv"
	"sync"
)

// maxWaiting is how many different paths wait for a slow reader of a watch, before one
// event for the watched path itself takes their place. Who may write below a watched
// path, such as a backend below its own directory, must not be able to fill this
// side's memory.
const maxWaiting = 1024

// Watch reports changes of a node and of all below it.
type Watch struct {
	conn   *connection
	path   string
	token  string
	events chan string
	work   chan struct{} // of one: tells pump to look at waiting
	stop   chan struct{} // closed by Close
	done   chan struct{} // closed when pump has ended

	mu      sync.Mutex
	closed  bool
	waiting []string            // paths not yet given to the reader, each once
	queued  map[string]struct{} // the same as a set
	err     error
}

// Watch reports changes of path and of everything below it until it is closed. A
// report comes at once, before anything has changed. Path may be a special name such
// as @releaseDomain. The context is for setting the watch up only. A domain may have
// some hundred watches; one more is refused with [ErrTooBig] by xenstored, and with
// [ErrQuota] by oxenstored, of which the kernel's device makes an [ErrInvalid].
func (c *Client) Watch(ctx context.Context, path string) (*Watch, error) {
	if err := CheckWatchPath(path); err != nil {
		return nil, &Error{Op: opWatch, Path: path, Err: err}
	}
	conn, err := c.watchConnection()
	if err != nil {
		return nil, &Error{Op: opWatch, Path: path, Err: err}
	}
	w, err := conn.addWatch(path)
	if err == nil {
		// Events may come before the ack: the server queues the first one with it.
		_, err = conn.request(ctx, TypeWatch, 0, w.request())
		if err != nil {
			w.end()
		}
	}
	if err != nil {
		if conn.trunk != nil {
			conn.cut()
		}
		return nil, &Error{Op: opWatch, Path: path, Err: err}
	}
	return w, nil
}

// watchConnection is what the next watch goes over.
func (c *Client) watchConnection() (*connection, error) {
	if c.open == nil {
		return c.conn, nil
	}
	rw, err := c.open()
	if err != nil {
		return nil, err
	}
	return c.conn.branch(rw)
}

// Events are the paths that have changed. The first is the watched one. A path is
// relative if the watched one is, and lies below it or is the same. Events say that
// there is something to look at, no more: those of a path that wait are made one, some
// come without a change, and an event for the watched path itself may stand for any
// number of changes below it. A reader who takes his time loses no change and hinders
// nobody. The channel is closed by [Watch.Close], and when the connection ends.
func (w *Watch) Events() <-chan string { return w.events }

// Err says why Events was closed: nil after Close, else an [ErrClosed] with what ended
// the connection. It is nil as long as Events is open.
func (w *Watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close ends the watch. It does not wait for the server. Close always succeeds.
func (w *Watch) Close() error {
	if w.end() {
		if w.conn.trunk != nil {
			w.conn.cut()
			return nil
		}
		w.conn.mu.Lock()
		w.conn.detach(TypeUnwatch, 0, w.request())
		w.conn.mu.Unlock()
	}
	return nil
}

// request is the payload of WATCH and UNWATCH.
func (w *Watch) request() []byte { return AppendString(AppendString(nil, w.path), w.token) }

// addWatch makes a watch of which the server does not know yet.
func (c *connection) addWatch(path string) (*Watch, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	// A token is never used again, so that an event on its way when its watch was
	// closed cannot reach another one.
	c.lastToken++
	w := &Watch{
		conn:   c,
		path:   path,
		token:  strconv.FormatUint(c.lastToken, 10),
		events: make(chan string),
		work:   make(chan struct{}, 1),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
		queued: make(map[string]struct{}),
	}
	c.watches[w.token] = w
	c.goroutines.Go(w.pump)
	return w, nil
}

// end takes the watch off this side, and says false if that was done before.
func (w *Watch) end() bool {
	w.mu.Lock()
	first := !w.closed
	w.closed = true
	w.mu.Unlock()
	if first {
		close(w.stop)
		w.conn.mu.Lock()
		delete(w.conn.watches, w.token)
		w.conn.mu.Unlock()
	}
	<-w.done
	return first
}

// push queues an event. It is called by the connection's reader and never waits.
func (w *Watch) push(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.queued[path]; ok {
		return
	}
	if len(w.waiting) == maxWaiting {
		w.waiting = w.waiting[:0]
		clear(w.queued)
		path = w.path
	}
	w.waiting = append(w.waiting, path)
	w.queued[path] = struct{}{}
	select {
	case w.work <- struct{}{}:
	default:
	}
}

// pop takes the oldest event that waits. From then on an event for the same path waits
// by itself: the reader may have looked at the node before that change.
func (w *Watch) pop() (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		return "", false
	}
	path := w.waiting[0]
	w.waiting = w.waiting[1:]
	delete(w.queued, path)
	return path, true
}

// pump gives the events to the reader.
func (w *Watch) pump() {
	defer close(w.done)
	defer close(w.events)
	for {
		// With an event in hand wait for the reader, without one for an event: a nil
		// channel is never ready.
		var events chan<- string
		work := w.work
		path, ok := w.pop()
		if ok {
			events, work = w.events, nil
		}
		select {
		case events <- path:
		case <-work:
		case <-w.stop:
			return
		case <-w.conn.dead:
			w.fail()
			return
		}
	}
}

// fail keeps why the connection ended, unless the watch was closed first.
func (w *Watch) fail() {
	w.conn.mu.Lock()
	err := w.conn.err
	w.conn.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.err = err
	}
}
