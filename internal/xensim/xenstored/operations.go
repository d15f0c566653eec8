package xenstored

import (
	"slices"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// find returns the node at path if dom may do with it what it needs. A client that
// may not even know whether a node exists is told EACCES instead of ENOENT.
func (a *access) find(path string, what need) (*node, error) {
	if n := a.get(path); n != nil {
		if !n.allows(a.dom, what) {
			return nil, xenstore.ErrPermission
		}
		return n, nil
	}
	parent, _ := a.nearest(path)
	if !parent.allows(a.dom, what) {
		return nil, xenstore.ErrPermission
	}
	return nil, xenstore.ErrNotFound
}

// nearest returns the nearest node above path that exists, and its path.
func (a *access) nearest(path string) (*node, string) {
	for {
		path, _ = split(path)
		if n := a.get(path); n != nil || path == "/" {
			return n, path
		}
	}
}

func (a *access) read(path string) ([]byte, error) {
	n, err := a.find(path, toRead)
	if err != nil {
		return nil, err
	}
	return n.value, nil
}

func (a *access) directory(path string) (*node, error) { return a.find(path, toRead) }

// write sets a node's value. It makes the node, and those above it, if need be.
func (a *access) write(path string, value []byte) error {
	n, err := a.find(path, toWrite)
	if err == xenstore.ErrNotFound {
		return a.create(path, value)
	}
	if err != nil {
		return err
	}
	m := *n
	m.value = value
	if err := a.checkSize(&m); err != nil {
		return err
	}
	a.put(path, &m)
	a.note(change{path: path, before: n, after: &m})
	return nil
}

// mkdir makes a node if there is none.
func (a *access) mkdir(path string) error {
	_, err := a.find(path, toWrite)
	if err == xenstore.ErrNotFound {
		return a.create(path, nil)
	}
	return err
}

// create makes the node at path and what is missing above it. A new node has its
// parent's permissions, but belongs to the domain that made it, unless that is 0.
func (a *access) create(path string, value []byte) error {
	parent, at := a.nearest(path)
	perms := parent.perms
	if a.dom != 0 && perms[0].Domain != a.dom {
		perms = slices.Clone(perms)
		perms[0].Domain = a.dom
	}
	var missing []string
	for p := path; p != at; {
		missing = append(missing, p)
		p, _ = split(p)
	}
	if a.dom != 0 && a.nodesOf(a.dom)+len(missing) > quotaNodes {
		return xenstore.ErrNoSpace
	}
	_, name := split(missing[len(missing)-1])
	extended := parent.withChild(name)
	made := &node{value: value, perms: perms}
	if err := a.checkSize(extended, made); err != nil {
		return err
	}
	a.put(at, extended)
	child := "" // name of the node made before, which is below
	for i, p := range missing {
		n := made
		if i > 0 {
			n = &node{perms: perms, children: []string{child}}
		}
		a.put(p, n)
		_, child = split(p)
	}
	a.note(change{path: path, after: made})
	return nil
}

func (a *access) checkSize(nodes ...*node) error {
	for _, n := range nodes {
		if a.dom != 0 && n.bytes() >= quotaNodeBytes {
			return xenstore.ErrNoSpace
		}
	}
	return nil
}

// remove removes a node and all below it. That there is none is fine if there is a
// node that it could be in.
func (a *access) remove(path string) error {
	if path == "/" {
		return xenstore.ErrInvalid
	}
	parent, name := split(path)
	n, err := a.find(path, toWrite)
	if err == xenstore.ErrNotFound && a.get(parent) != nil {
		return nil
	}
	if err != nil {
		return err
	}
	above := a.get(parent)
	if above == nil { // made by others since this transaction has looked, which so must fail
		return xenstore.ErrInvalid // as rm_node of xenstored_core.c
	}
	a.put(parent, above.withoutChild(name))
	a.removeAll(path, n, false)
	return nil
}

// removeAll removes n and what is below it, deepest first.
func (a *access) removeAll(path string, n *node, exact bool) {
	for _, name := range n.children {
		below := join(path, name)
		if child := a.get(below); child != nil {
			a.removeAll(below, child, true)
		}
	}
	a.put(path, nil)
	a.note(change{path: path, exact: exact, before: n})
}

func (a *access) permissions(path string) ([]xenstore.Permission, error) {
	n, err := a.find(path, toRead)
	if err != nil {
		return nil, err
	}
	return n.perms, nil
}

// setPermissions is for the owner, who stays it unless domain 0 says otherwise.
func (a *access) setPermissions(path string, perms []xenstore.Permission) error {
	n, err := a.find(path, toOwn)
	if err != nil {
		return err
	}
	if a.dom != 0 && perms[0].Domain != n.perms[0].Domain {
		return xenstore.ErrNotPermitted
	}
	m := *n
	m.perms = perms
	if err := a.checkSize(&m); err != nil {
		return err
	}
	a.put(path, &m)
	a.note(change{path: path, before: n, after: &m})
	return nil
}
