package xenstored

import "strings"

// Pause makes the requests of dom wait, or lets them go on.
func (s *Server) Pause(dom uint16, pause bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resumed := s.paused[dom]
	switch {
	case pause && resumed == nil:
		s.paused[dom] = make(chan struct{})
	case !pause && resumed != nil:
		close(resumed)
		delete(s.paused, dom)
	}
}

// lockFor locks the server for a request of c, when its domain is not paused. It
// returns false, and does not lock, at Close.
func (s *Server) lockFor(c *connection) bool {
	for {
		s.mu.Lock()
		resumed := s.paused[c.dom]
		if resumed == nil {
			return true
		}
		s.mu.Unlock()
		select {
		case <-resumed:
		case <-s.closed:
			return false
		}
	}
}

// Rename makes the connections of domain from those of domain to, as when a guest is
// restored: relative paths, of watches too, are in the new home from then on. Nodes
// stay as they are.
func (s *Server) Rename(from, to uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.connections {
		if c.dom != from {
			continue
		}
		c.dom = to
		for i := range c.watches {
			w := &c.watches[i]
			if w.prefix != "" {
				relative := strings.TrimPrefix(w.path, w.prefix)
				w.prefix = home(to) + "/"
				w.path = w.prefix + relative
			}
		}
	}
}
