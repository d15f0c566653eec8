package xenstore_test

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// server is as small a xenstored as examples can do with: one flat map for all its
// connections, and transactions that commit only if nothing else has changed.
type server struct {
	mu      sync.Mutex
	nodes   map[string]string
	changes uint64
	conns   map[*serverConn]bool
}

type serverConn struct {
	net.Conn
	watches      map[string]string // path by token
	transactions map[uint32]*serverTransaction
	lastID       uint32
}

type serverTransaction struct {
	began  uint64
	writes map[string]string
}

func newServer() *server {
	return &server{nodes: make(map[string]string), conns: make(map[*serverConn]bool)}
}

// connect makes a connection to the server.
func (s *server) connect() net.Conn {
	near, far := net.Pipe()
	c := &serverConn{
		Conn: far, watches: make(map[string]string), transactions: make(map[uint32]*serverTransaction),
	}
	s.mu.Lock()
	s.conns[c] = true
	s.mu.Unlock()
	go s.serve(c)
	return near
}

func (s *server) serve(c *serverConn) {
	defer c.Close()
	for {
		h, payload, err := xenstore.ReadMessage(c)
		if err == nil {
			s.mu.Lock()
			err = s.answer(c, h, payload)
			s.mu.Unlock()
		}
		if err != nil {
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			return
		}
	}
}

func (s *server) answer(c *serverConn, h xenstore.Header, payload []byte) error {
	reply, err := s.do(c, h, payload)
	if err != nil {
		h.Type, reply = xenstore.TypeError, xenstore.AppendError(nil, err)
	}
	_, err = c.Write(xenstore.AppendMessage(nil, h, reply))
	return err
}

func (s *server) do(c *serverConn, h xenstore.Header, payload []byte) ([]byte, error) {
	path, rest, err := xenstore.CutString(payload)
	if err != nil {
		return nil, xenstore.ErrInvalid
	}
	ok := []byte(xenstore.Acknowledgement)
	tx := c.transactions[h.Transaction]
	switch h.Type {
	case xenstore.TypeRead:
		if value, found := s.lookup(tx, path); found {
			return []byte(value), nil
		}
		return nil, xenstore.ErrNotFound
	case xenstore.TypeDirectory:
		return xenstore.AppendStrings(nil, s.children(path)), nil
	case xenstore.TypeWrite:
		if tx != nil {
			tx.writes[path] = string(rest)
		} else {
			s.set(path, string(rest))
		}
	case xenstore.TypeWatch:
		token, _, _ := xenstore.CutString(rest)
		c.watches[token] = path
		s.fire(c, path, token)
	case xenstore.TypeUnwatch:
		token, _, _ := xenstore.CutString(rest)
		delete(c.watches, token)
	case xenstore.TypeTransactionStart:
		c.lastID++
		c.transactions[c.lastID] = &serverTransaction{s.changes, make(map[string]string)}
		return xenstore.AppendTransaction(nil, c.lastID), nil
	case xenstore.TypeTransactionEnd:
		delete(c.transactions, h.Transaction)
		if path == "F" {
			break
		}
		if tx.began != s.changes {
			return nil, xenstore.ErrAgain
		}
		for path, value := range tx.writes {
			s.set(path, value)
		}
	default:
		return nil, xenstore.ErrNotSupported
	}
	return ok, nil
}

func (s *server) lookup(tx *serverTransaction, path string) (string, bool) {
	if tx != nil {
		if value, ok := tx.writes[path]; ok {
			return value, true
		}
	}
	value, ok := s.nodes[path]
	return value, ok
}

func (s *server) children(path string) []string {
	var names []string
	for node := range s.nodes {
		if name, ok := strings.CutPrefix(node, path+"/"); ok && !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (s *server) set(path, value string) {
	s.nodes[path] = value
	s.changes++
	for c := range s.conns {
		for token, watched := range c.watches {
			if path == watched || strings.HasPrefix(path, watched+"/") {
				s.fire(c, path, token)
			}
		}
	}
}

func (s *server) fire(c *serverConn, path, token string) {
	h := xenstore.Header{Type: xenstore.TypeWatchEvent}
	// A connection that has ended is found out by its own goroutine.
	_, _ = c.Write(xenstore.AppendMessage(nil, h, xenstore.AppendWatchEvent(nil, path, token)))
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}
