package xenstored

import (
	"strconv"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// handle carries out one request and answers it. The events of what it changes go
// out before its reply.
func (c *connection) handle(h xenstore.Header, payload []byte) {
	if !c.s.lockFor(c) {
		return
	}
	defer c.s.mu.Unlock()
	var tx *transaction
	if h.Transaction != 0 {
		if tx = c.transactions[h.Transaction]; tx == nil {
			c.fail(h, xenstore.ErrNotFound)
			return
		}
	}
	var out []byte
	var err error
	switch h.Type {
	case xenstore.TypeWatch, xenstore.TypeUnwatch:
		out, err = c.handleWatch(h, payload)
	case xenstore.TypeResetWatches:
		c.watches = nil
		clear(c.transactions)
		out = []byte(xenstore.Acknowledgement)
	case xenstore.TypeTransactionStart:
		out, err = c.begin(tx)
	case xenstore.TypeTransactionEnd:
		out, err = c.end(h, tx, payload)
	case xenstore.TypeGetDomainPath, xenstore.TypeIsDomainIntroduced:
		out, err = c.handleDomain(h.Type, payload)
	default:
		a := access{s: c.s, tx: tx, dom: c.dom}
		out, err = a.handle(h.Type, payload)
		c.s.fire(a.changes)
	}
	switch {
	case err != nil:
		c.fail(h, err)
	case out != nil:
		c.reply(h, out)
	}
}

// handle carries out a request on nodes.
func (a *access) handle(t xenstore.MessageType, payload []byte) ([]byte, error) {
	switch t {
	case xenstore.TypeDirectory, xenstore.TypeRead, xenstore.TypeGetPermissions,
		xenstore.TypeWrite, xenstore.TypeMkdir, xenstore.TypeRemove,
		xenstore.TypeSetPermissions, xenstore.TypeDirectoryPart:
	default:
		return nil, xenstore.ErrNotSupported
	}
	path, rest, err := xenstore.CutString(payload)
	if err != nil {
		return nil, xenstore.ErrInvalid
	}
	if path, err = absolute(a.dom, path); err != nil {
		return nil, err
	}
	switch t {
	case xenstore.TypeWrite:
		return acknowledge(a.write(path, rest))
	case xenstore.TypeSetPermissions:
		perms, err := xenstore.ParsePermissions(rest)
		if err != nil {
			return nil, xenstore.ErrInvalid
		}
		return acknowledge(a.setPermissions(path, perms))
	case xenstore.TypeDirectoryPart:
		return a.directoryPart(path, rest)
	}
	if len(rest) > 0 {
		return nil, xenstore.ErrInvalid
	}
	return a.handleSimple(t, path)
}

// handleSimple carries out a request that has a path and nothing else.
func (a *access) handleSimple(t xenstore.MessageType, path string) ([]byte, error) {
	switch t {
	case xenstore.TypeRead:
		value, err := a.read(path)
		return append([]byte{}, value...), err
	case xenstore.TypeDirectory:
		n, err := a.directory(path)
		if err != nil {
			return nil, err
		}
		return xenstore.AppendStrings([]byte{}, n.children), nil
	case xenstore.TypeGetPermissions:
		perms, err := a.permissions(path)
		return xenstore.AppendPermissions([]byte{}, perms), err
	case xenstore.TypeMkdir:
		return acknowledge(a.mkdir(path))
	case xenstore.TypeRemove:
		return acknowledge(a.remove(path))
	}
	return nil, xenstore.ErrNotSupported
}

// acknowledge is the reply of a request that returns nothing.
func acknowledge(err error) ([]byte, error) {
	return []byte(xenstore.Acknowledgement), err
}

func (a *access) directoryPart(path string, rest []byte) ([]byte, error) {
	s, rest, err := xenstore.CutString(rest)
	if err != nil || len(rest) > 0 {
		return nil, xenstore.ErrInvalid
	}
	offset, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return nil, xenstore.ErrInvalid
	}
	n, err := a.directory(path)
	if err != nil {
		return nil, err
	}
	return xenstore.AppendDirectoryPart(nil, n.generation, n.children, offset), nil
}

func (c *connection) handleWatch(h xenstore.Header, payload []byte) ([]byte, error) {
	list, err := xenstore.ParseStrings(payload)
	if err != nil || len(list) < 2 {
		return nil, xenstore.ErrInvalid
	}
	w, err := newWatch(c.dom, list[0], list[1])
	if err != nil {
		return nil, err
	}
	if h.Type == xenstore.TypeUnwatch {
		return acknowledge(c.removeWatch(w))
	}
	return nil, c.addWatch(h, w) // which has replied
}

func (c *connection) begin(tx *transaction) ([]byte, error) {
	if tx != nil {
		return nil, xenstore.ErrBusy // they do not nest
	}
	if c.dom != 0 && len(c.transactions) >= quotaTransactions {
		return nil, xenstore.ErrNoSpace
	}
	for c.lastID++; c.lastID == 0 || c.transactions[c.lastID] != nil; c.lastID++ {
	}
	c.transactions[c.lastID] = newTransaction()
	return xenstore.AppendTransaction(nil, c.lastID), nil
}

func (c *connection) end(h xenstore.Header, tx *transaction, payload []byte) ([]byte, error) {
	commit := string(payload) == "T\x00"
	if !commit && string(payload) != "F\x00" {
		return nil, xenstore.ErrInvalid
	}
	if tx == nil {
		return nil, xenstore.ErrNotFound
	}
	delete(c.transactions, h.Transaction)
	if commit {
		changes, err := c.s.commit(tx)
		if err != nil {
			return nil, err
		}
		c.s.fire(changes)
	}
	return []byte(xenstore.Acknowledgement), nil
}

func (c *connection) handleDomain(t xenstore.MessageType, payload []byte) ([]byte, error) {
	list, err := xenstore.ParseStrings(payload)
	if err != nil || len(list) != 1 {
		return nil, xenstore.ErrInvalid
	}
	dom, err := strconv.ParseUint(list[0], 10, 16)
	if err != nil {
		return nil, xenstore.ErrInvalid
	}
	path := home(uint16(dom))
	if t == xenstore.TypeGetDomainPath {
		return xenstore.AppendString(nil, path), nil
	}
	if c.s.nodes[path] == nil {
		return xenstore.AppendString(nil, "F"), nil
	}
	return xenstore.AppendString(nil, "T"), nil
}
