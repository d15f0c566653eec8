package xenstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Operation names in an [Error].
const (
	opRead           = "read"
	opWrite          = "write"
	opDirectory      = "directory"
	opMkdir          = "mkdir"
	opRemove         = "remove"
	opPermissions    = "permissions"
	opSetPermissions = "set permissions"
	opWatch          = "watch"
	opBegin          = "begin transaction"
	opCommit         = "commit transaction"
)

// How long Update waits after a conflict: from the first, doubled each time up to the
// second, less a random part so that two that met do not meet again.
const (
	minBackoff = time.Millisecond
	maxBackoff = 64 * time.Millisecond
)

// transaction is [Operations] with one transaction id, 0 for none.
type transaction struct {
	conn     *connection
	id       uint32
	ended    atomic.Bool
	conflict atomic.Bool // an operation was answered with EAGAIN: the commit would be, too
}

// Update runs f in a transaction and commits it. All that f did takes place at once,
// or nothing of it. When another change came in between (EAGAIN) f runs again, on a
// new transaction, until it succeeds or ctx ends: so it must have no other effect than
// its operations. An error of f drops the transaction and is returned as it is, unless
// an operation in f has met such a conflict.
//
// If ctx ends while the commit is under way it is not known whether it took place.
// Tx ends with f, and fails with [ErrTransactionEnded] from then on.
func (c *Client) Update(ctx context.Context, f func(tx Operations) error) error {
	for wait := minBackoff; ; wait = min(2*wait, maxBackoff) {
		again, err := c.tryUpdate(ctx, f)
		if !again {
			return err
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return &Error{Op: opCommit, Err: fmt.Errorf("%w, last by %w", ctx.Err(), ErrAgain)}
		case <-c.conn.dead:
			timer.Stop() // the next try says why
		}
	}
}

// tryUpdate is one try of Update. Again says that it met a conflict.
func (c *Client) tryUpdate(ctx context.Context, f func(tx Operations) error) (again bool, err error) {
	tx, err := c.begin(ctx)
	if err != nil {
		return errors.Is(err, ErrAgain), err
	}
	defer tx.drop() // f failed, or panicked
	if err := f(tx); err != nil {
		return tx.conflict.Load(), err
	}
	err = tx.commit(ctx)
	return errors.Is(err, ErrAgain), err
}

func (c *Client) begin(ctx context.Context) (*transaction, error) {
	payload, err := c.conn.request(ctx, TypeTransactionStart, 0, []byte{0})
	if err != nil {
		return nil, &Error{Op: opBegin, Err: err}
	}
	id, err := ParseTransaction(payload)
	if err != nil {
		return nil, &Error{Op: opBegin, Err: err}
	}
	return &transaction{conn: c.conn, id: id}, nil
}

// commit ends the transaction, unless ctx ends first: then nobody knows whether that was
// still said to xenstored, and drop says it in any case.
func (t *transaction) commit(ctx context.Context) error {
	_, err := t.conn.request(ctx, TypeTransactionEnd, t.id, AppendString(nil, "T"))
	if err == nil || err != ctx.Err() {
		t.ended.Store(true)
	}
	if err != nil {
		return &Error{Op: opCommit, Err: err}
	}
	return nil
}

// drop ends a transaction that was not committed. It does not wait, since it must
// happen even if ctx has ended.
func (t *transaction) drop() {
	if t.ended.Swap(true) {
		return
	}
	t.conn.mu.Lock()
	defer t.conn.mu.Unlock()
	t.conn.detach(TypeTransactionEnd, t.id, AppendString(nil, "F"))
}

// request sends one request as a part of the transaction.
func (t *transaction) request(ctx context.Context, typ MessageType, payload []byte) ([]byte, error) {
	if t.ended.Load() {
		return nil, ErrTransactionEnded
	}
	reply, err := t.conn.request(ctx, typ, t.id, payload)
	if errors.Is(err, ErrAgain) {
		t.conflict.Store(true)
	}
	return reply, err
}

// do is request for an operation on a node, whose path is checked.
func (t *transaction) do(ctx context.Context, op string, typ MessageType, path string, payload []byte) ([]byte, error) {
	if err := checkFor(op, path); err != nil {
		return nil, &Error{Op: op, Path: path, Err: err}
	}
	reply, err := t.request(ctx, typ, payload)
	if err != nil {
		return nil, &Error{Op: op, Path: path, Err: err}
	}
	return reply, nil
}

// checkFor is the check of path that fits op: special names have permissions, too.
func checkFor(op, path string) error {
	switch op {
	case opPermissions, opSetPermissions, opWatch:
		return CheckWatchPath(path)
	}
	return CheckPath(path)
}

func (t *transaction) Read(ctx context.Context, path string) (string, error) {
	value, err := t.do(ctx, opRead, TypeRead, path, AppendString(nil, path))
	return string(value), err
}

func (t *transaction) Write(ctx context.Context, path, value string) error {
	_, err := t.do(ctx, opWrite, TypeWrite, path, append(AppendString(nil, path), value...))
	return err
}

func (t *transaction) Mkdir(ctx context.Context, path string) error {
	_, err := t.do(ctx, opMkdir, TypeMkdir, path, AppendString(nil, path))
	return err
}

func (t *transaction) Remove(ctx context.Context, path string) error {
	_, err := t.do(ctx, opRemove, TypeRemove, path, AppendString(nil, path))
	return err
}

func (t *transaction) Directory(ctx context.Context, path string) ([]string, error) {
	err := CheckPath(path)
	var names []string
	if err == nil {
		names, err = t.directory(ctx, path)
	}
	if err != nil {
		return nil, &Error{Op: opDirectory, Path: path, Err: err}
	}
	return names, nil
}

func (t *transaction) Permissions(ctx context.Context, path string) ([]Permission, error) {
	payload, err := t.do(ctx, opPermissions, TypeGetPermissions, path, AppendString(nil, path))
	if err != nil {
		return nil, err
	}
	perms, err := ParsePermissions(payload)
	if err != nil {
		return nil, &Error{Op: opPermissions, Path: path, Err: err}
	}
	return perms, nil
}

func (t *transaction) SetPermissions(ctx context.Context, path string, perms []Permission) error {
	if len(perms) == 0 {
		return &Error{Op: opSetPermissions, Path: path, Err: fmt.Errorf("%w: a node has an owner", ErrInvalid)}
	}
	payload := AppendPermissions(AppendString(nil, path), perms)
	_, err := t.do(ctx, opSetPermissions, TypeSetPermissions, path, payload)
	return err
}
