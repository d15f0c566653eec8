package xenstored

import (
	"strings"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// watch is what a connection wants to hear of.
type watch struct {
	path   string // absolute, or a special name
	prefix string // cut off the paths of events: the watch was asked for by a relative path
	token  string
}

// newWatch checks what a client sent. Special names (@introduceDomain) are for
// domain 0; nothing ever happens to them.
func newWatch(dom uint16, path, token string) (watch, error) {
	if strings.HasPrefix(path, "@") {
		if dom != 0 {
			return watch{}, xenstore.ErrPermission
		}
		return watch{path: path, token: token}, xenstore.CheckWatchPath(path)
	}
	abs, err := absolute(dom, path)
	if err != nil {
		return watch{}, err
	}
	w := watch{path: abs, token: token}
	if path[0] != '/' {
		w.prefix = home(dom) + "/"
	}
	return w, nil
}

// event is the payload of a watch event for path.
func (w *watch) event(path string) []byte {
	return xenstore.AppendWatchEvent(nil, strings.TrimPrefix(path, w.prefix), w.token)
}

// hears tells whether the watch is for this change.
func (w *watch) hears(c *change) bool {
	if c.exact {
		return w.path == c.path
	}
	return within(c.path, w.path)
}

// fire sends the events of changes. The lock is held.
func (s *Server) fire(changes []change) {
	for i := range changes {
		c := &changes[i]
		for conn := range s.connections {
			if !s.mayHear(conn.dom, c) {
				continue
			}
			for j := range conn.watches {
				if w := &conn.watches[j]; w.hears(c) {
					conn.sendEvent(w.event(c.path))
				}
			}
		}
	}
}

// mayHear tells whether dom may know of a change: it could, or can, read the node or
// the one above it.
func (s *Server) mayHear(dom uint16, c *change) bool {
	if dom == 0 {
		return true
	}
	if c.before != nil && c.before.allows(dom, toRead) || c.after != nil && c.after.allows(dom, toRead) {
		return true
	}
	parent, _ := split(c.path)
	n := s.nodes[parent]
	return n != nil && n.allows(dom, toRead)
}

// addWatch registers w and sends its reply and its first event.
func (c *connection) addWatch(h xenstore.Header, w watch) error {
	for i := range c.watches {
		if c.watches[i].path == w.path && c.watches[i].token == w.token {
			return xenstore.ErrExists
		}
	}
	if c.dom != 0 && len(c.watches) >= quotaWatches {
		return xenstore.ErrTooBig
	}
	c.watches = append(c.watches, w)
	event := func() { c.sendEvent(w.event(w.path)) }
	if c.s.opts.EventBeforeAck {
		event()
	}
	c.reply(h, []byte(xenstore.Acknowledgement))
	if !c.s.opts.EventBeforeAck {
		event()
	}
	return nil
}

func (c *connection) removeWatch(w watch) error {
	for i := range c.watches {
		if c.watches[i].path == w.path && c.watches[i].token == w.token {
			c.watches = append(c.watches[:i], c.watches[i+1:]...)
			return nil
		}
	}
	return xenstore.ErrNotFound
}
