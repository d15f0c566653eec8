package xenstored

import (
	"net"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// Quotas of domains other than 0, as C xenstored has them by default.
const (
	quotaNodes        = 1000 // nodes that a domain owns (ENOSPC)
	quotaNodeBytes    = 2048 // one node with its children's names (ENOSPC)
	quotaWatches      = 128  // of one connection (E2BIG)
	quotaTransactions = 10   // open on one connection (ENOSPC)
)

// Options are what differs between servers.
type Options struct {
	// EventBeforeAck sends the first event of a new watch before the reply to the
	// WATCH, as Linux does on /dev/xen/xenbus. xenstored sends it after.
	EventBeforeAck bool
}

// Server is a store and the connections to it. Its methods may be called by any
// goroutine.
type Server struct {
	opts   Options
	closed chan struct{}

	mu          sync.Mutex
	nodes       map[string]*node // by absolute path; "/" is always there
	owned       map[uint16]int   // nodes by owner
	generation  uint64           // of the node that was last changed
	connections map[*connection]struct{}
	ended       bool

	// Faults.
	failCommits int
	delay       time.Duration
	revived     chan struct{} // nil: answers; else closed when it does again

	// paused are the domains whose requests wait, until the channel is closed.
	paused map[uint16]chan struct{}
	// held are the domains whose watch events wait, until the channel is closed.
	held map[uint16]chan struct{}
}

// New makes a store that has a root, for domain 0 alone, and nothing in it.
func New(opts Options) *Server {
	s := &Server{
		opts:        opts,
		closed:      make(chan struct{}),
		nodes:       make(map[string]*node),
		owned:       make(map[uint16]int),
		connections: make(map[*connection]struct{}),
		paused:      make(map[uint16]chan struct{}),
		held:        make(map[uint16]chan struct{}),
	}
	s.nodes["/"] = &node{perms: []xenstore.Permission{{Domain: 0}}}
	return s
}

// Serve answers dom on conn until conn ends or Close, and closes conn. Watches and
// transactions of the connection end with it.
func (s *Server) Serve(conn net.Conn, dom uint16) {
	c := newConnection(s, conn, dom)
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		conn.Close()
		return
	}
	s.connections[c] = struct{}{}
	s.mu.Unlock()
	c.run()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.connections, c)
}

// Close ends all connections. Each Serve returns soon.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	close(s.closed)
	for c := range s.connections {
		c.conn.Close()
	}
}

// FailCommits makes the next n commits of transactions fail with EAGAIN, whoever
// sends them.
func (s *Server) FailCommits(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failCommits = n
}

// SetDelay makes each request wait before it is carried out.
func (s *Server) SetDelay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// SetDead stops the server from carrying out anything, as if xenstored were stopped,
// or lets it go on with what came meanwhile.
func (s *Server) SetDead(dead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case dead && s.revived == nil:
		s.revived = make(chan struct{})
	case !dead && s.revived != nil:
		close(s.revived)
		s.revived = nil
	}
}

// hold waits out the faults before a request. It returns false at Close.
func (s *Server) hold() bool {
	s.mu.Lock()
	delay, revived := s.delay, s.revived
	s.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.closed:
			return false
		}
	}
	if revived != nil {
		select {
		case <-revived:
		case <-s.closed:
			return false
		}
	}
	return true
}
