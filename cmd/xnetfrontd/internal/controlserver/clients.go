package controlserver

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// clients are the connections. Writers and readers have places of their own, so that readers
// cannot keep root out. If there is no place for a new client, the client of its kind that has
// been silent for longest gives its place up. So clients that hang, or that ask again and
// again, keep no other out.
type clients struct {
	max     int // of each kind
	streams int

	mu     sync.Mutex
	closed bool
	list   []*client
}

var (
	errClosed = errors.New("the daemon is stopping")
	errGone   = errors.New("the client is gone")
)

// admit makes a place for c.
func (l *clients) admit(c *client) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	n := 0
	var oldest *client // without a request on which the daemon works
	for _, o := range l.list {
		if o.peer.writer != c.peer.writer {
			continue
		}
		n++
		if !o.busy && (oldest == nil || o.since.Before(oldest.since)) {
			oldest = o
		}
	}
	if n >= l.max {
		if oldest == nil {
			return fmt.Errorf("%d requests are being answered already: try again", n)
		}
		l.remove(oldest)
		oldest.conn.Close() // which ends the wait of its goroutine
	}
	c.since = time.Now()
	l.list = append(l.list, c)
	return nil
}

// begin notes that the daemon works on a request of c. It returns false if c had to give its
// place up.
func (l *clients) begin(c *client) bool { return l.mark(c, true) }

// done notes that the request is done.
func (l *clients) done(c *client) bool { return l.mark(c, false) }

func (l *clients) mark(c *client, busy bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.list {
		if o == c {
			c.busy, c.since = busy, time.Now()
			return true
		}
	}
	return false
}

// stream notes that c, which is busy, has a capture from now on.
func (l *clients) stream(c *client) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, o := range l.list {
		if o.streaming {
			n++
		}
	}
	if n >= l.streams {
		return fmt.Errorf("%d captures run already: end one of them", n)
	}
	c.streaming = true
	return nil
}

// leave closes c's connection and gives its place back.
func (l *clients) leave(c *client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(c)
	c.conn.Close() // a second time, if it had to give its place up or the server was closed
}

func (l *clients) remove(c *client) {
	for i, o := range l.list {
		if o == c {
			l.list = append(l.list[:i], l.list[i+1:]...)
			return
		}
	}
}

// close ends every connection, and makes admit refuse new ones.
func (l *clients) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var errs []error
	for _, c := range l.list {
		// A connection that is about to leave has closed itself.
		if err := c.conn.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	l.list = nil
	return errors.Join(errs...)
}
