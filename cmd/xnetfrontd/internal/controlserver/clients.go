package controlserver

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// clients are the connections that there are. Those that may write have places of their
// own, so that nobody else can keep root out. A newcomer for whom there is no place gets
// that of the one of its kind which has been silent for longest: so no number of clients
// that hang, or that ask again and again, keeps others out.
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
	var oldest *client // of those for whom the daemon does nothing now
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
		oldest.conn.Close() // which ends what its goroutine waits for
	}
	c.since = time.Now()
	l.list = append(l.list, c)
	return nil
}

// begin notes that the daemon has a request of c. It reports false when c had to make
// room.
func (l *clients) begin(c *client) bool { return l.mark(c, true) }

// done notes that the request was done.
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
	c.conn.Close() // again, if it had to make room or the server was closed
}

func (l *clients) remove(c *client) {
	for i, o := range l.list {
		if o == c {
			l.list = append(l.list[:i], l.list[i+1:]...)
			return
		}
	}
}

// close ends every connection, and admits none any more.
func (l *clients) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var errs []error
	for _, c := range l.list {
		// One that is about to leave has done it itself.
		if err := c.conn.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	l.list = nil
	return errors.Join(errs...)
}
