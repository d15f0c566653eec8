package xenstored

import (
	"slices"
	"strconv"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// node is one version of a node. It is never changed once it is in the store, so
// that transactions can keep it.
type node struct {
	value      []byte
	perms      []xenstore.Permission // the owner's first
	children   []string              // names, sorted
	generation uint64                // another each time the node changes, its children's names included
}

// need is what an operation needs of a node.
type need uint8

const (
	toRead need = 1 << iota
	toWrite
	toOwn
)

// allows tells whether dom may do what needs n. Domain 0 may everything.
func (n *node) allows(dom uint16, what need) bool {
	if dom == 0 || n.perms[0].Domain == dom {
		return true
	}
	p := n.perms[0]
	for _, other := range n.perms[1:] {
		if other.Domain == dom {
			p = other
			break
		}
	}
	switch what {
	case toRead:
		return p.Read
	case toWrite:
		return p.Write
	}
	return false
}

// bytes is the node's size as C xenstored's quota counts it, about.
func (n *node) bytes() int {
	size := 24 + 8*len(n.perms) + len(n.value)
	for _, name := range n.children {
		size += len(name) + 1
	}
	return size
}

// withChild returns a new version that has the child too.
func (n *node) withChild(name string) *node {
	m := *n
	at, found := slices.BinarySearch(n.children, name)
	if !found {
		m.children = slices.Insert(slices.Clone(n.children), at, name)
	}
	return &m
}

// withoutChild returns a new version that does not have the child.
func (n *node) withoutChild(name string) *node {
	m := *n
	if at, found := slices.BinarySearch(n.children, name); found {
		m.children = slices.Delete(slices.Clone(n.children), at, at+1)
	}
	return &m
}

// home is the directory in which a domain's relative paths begin.
func home(dom uint16) string { return "/local/domain/" + strconv.Itoa(int(dom)) }

// absolute checks a path that dom sent and makes it absolute.
func absolute(dom uint16, path string) (string, error) {
	if err := xenstore.CheckPath(path); err != nil {
		return "", err
	}
	if path[0] == '/' {
		return path, nil
	}
	path = home(dom) + "/" + path
	return path, xenstore.CheckPath(path)
}

// split cuts path into its parent and its name. The root has no parent.
func split(path string) (parent, name string) {
	at := strings.LastIndexByte(path, '/')
	if at == 0 {
		return "/", path[1:]
	}
	return path[:at], path[at+1:]
}

// join is the path of parent's child.
func join(parent, name string) string {
	if parent == "/" {
		return "/" + name
	}
	return parent + "/" + name
}

// within tells whether path is top or below it.
func within(path, top string) bool {
	if top == "/" || path == top {
		return true
	}
	return strings.HasPrefix(path, top) && path[len(top)] == '/'
}
