package xenstored

import "github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"

// transaction is what one client has read and changed since it began. As in C
// xenstored it is no snapshot: a node is read from the store when it is first
// touched, and the commit fails if any node it touched has been changed by others.
type transaction struct {
	touched map[string]*touched
	changes []change
	owned   map[uint16]int // nodes created, less removed, by owner
}

// touched is a node as a transaction has it.
type touched struct {
	seen    uint64 // generation in the store when first touched; 0: absent
	node    *node  // nil: absent
	changed bool
}

// change is what watches must hear of. Below a removed node each node is its own
// change, of which only watches on exactly that node hear.
type change struct {
	path   string
	exact  bool
	before *node // nil: it did not exist
	after  *node // nil: it does not exist any more
}

func newTransaction() *transaction {
	return &transaction{touched: make(map[string]*touched), owned: make(map[uint16]int)}
}

// access is one request's way into the store, in a transaction or not. The server's
// lock is held while it exists.
type access struct {
	s       *Server
	tx      *transaction // nil: changes are made at once
	dom     uint16
	changes []change // made at once
}

// get returns the node at path, nil if there is none.
func (a *access) get(path string) *node {
	if a.tx == nil {
		return a.s.nodes[path]
	}
	t := a.tx.touched[path]
	if t == nil {
		t = &touched{node: a.s.nodes[path]}
		if t.node != nil {
			t.seen = t.node.generation
		}
		a.tx.touched[path] = t
	}
	return t.node
}

// put makes n the node at path; nil removes it.
func (a *access) put(path string, n *node) {
	old := a.get(path)
	if n != nil {
		a.s.generation++
		n.generation = a.s.generation
	}
	owned := a.s.owned
	if a.tx != nil {
		owned = a.tx.owned
		t := a.tx.touched[path]
		t.node, t.changed = n, true
	} else {
		a.s.set(path, n)
	}
	if old != nil {
		owned[old.perms[0].Domain]--
	}
	if n != nil {
		owned[n.perms[0].Domain]++
	}
}

func (s *Server) set(path string, n *node) {
	if n == nil {
		delete(s.nodes, path)
		return
	}
	s.nodes[path] = n
}

// note records a change for the watches.
func (a *access) note(c change) {
	if a.tx != nil {
		a.tx.changes = append(a.tx.changes, c)
		return
	}
	a.changes = append(a.changes, c)
}

// nodesOf is how many nodes dom owns, as this access sees it.
func (a *access) nodesOf(dom uint16) int {
	n := a.s.owned[dom]
	if a.tx != nil {
		n += a.tx.owned[dom]
	}
	return n
}

// commit makes a transaction's changes, or none: [xenstore.ErrAgain].
func (s *Server) commit(tx *transaction) ([]change, error) {
	if s.failCommits > 0 {
		s.failCommits--
		return nil, xenstore.ErrAgain
	}
	for path, t := range tx.touched {
		var now uint64
		if n := s.nodes[path]; n != nil {
			now = n.generation
		}
		if now != t.seen {
			return nil, xenstore.ErrAgain
		}
	}
	for path, t := range tx.touched {
		if t.changed {
			s.set(path, t.node)
		}
	}
	for dom, n := range tx.owned {
		s.owned[dom] += n
	}
	return tx.changes, nil
}
