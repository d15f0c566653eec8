package xenstored

import "github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"

// HoldEvents keeps the watch events of dom back, or sends them, with those that came
// meanwhile. While they are kept back an UNWATCH of dom waits.
func (s *Server) HoldEvents(dom uint16, hold bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held[dom]
	switch {
	case hold && held == nil:
		s.held[dom] = make(chan struct{})
	case !hold && held != nil:
		delete(s.held, dom)
		close(held)
		for c := range s.connections {
			if c.dom != dom {
				continue
			}
			for _, event := range c.heldEvents {
				c.sendEvent(event)
			}
			c.heldEvents = nil
		}
	}
}

// sendEvent sends a watch event, or keeps it. The server's lock is held.
func (c *connection) sendEvent(event []byte) {
	if c.s.held[c.dom] != nil {
		c.heldEvents = append(c.heldEvents, event)
		return
	}
	c.send(xenstore.Header{Type: xenstore.TypeWatchEvent}, event)
}

// awaitEvents waits until events of c's domain are not kept back. It returns false at
// Close.
func (s *Server) awaitEvents(c *connection) bool {
	for {
		s.mu.Lock()
		held := s.held[c.dom]
		s.mu.Unlock()
		if held == nil {
			return true
		}
		select {
		case <-held:
		case <-s.closed:
			return false
		}
	}
}

// Has tells whether there is a node, without a request.
func (s *Server) Has(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[path] != nil
}
