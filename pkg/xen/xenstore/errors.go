package xenstore

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"syscall"
)

// The errors that a server can answer with: every name in xs_wire.h, and the one of
// its own that oxenstored has. An [*Error] wraps them.
var (
	ErrInvalid      = errors.New("invalid argument (EINVAL)")
	ErrPermission   = errors.New("permission denied (EACCES)")
	ErrExists       = errors.New("exists already (EEXIST)")
	ErrIsDirectory  = errors.New("is a directory (EISDIR)")
	ErrNotFound     = errors.New("no such node (ENOENT)")
	ErrNoMemory     = errors.New("out of memory (ENOMEM)")
	ErrNoSpace      = errors.New("over the domain's quota (ENOSPC)") // xenstored's quotas
	ErrIO           = errors.New("input/output error (EIO)")
	ErrNotEmpty     = errors.New("not empty (ENOTEMPTY)")
	ErrNotSupported = errors.New("not supported by the server (ENOSYS)")
	ErrReadOnly     = errors.New("read-only (EROFS)")
	ErrBusy         = errors.New("busy (EBUSY)")
	ErrAgain        = errors.New("conflict with another transaction (EAGAIN)")
	ErrConnected    = errors.New("connected already (EISCONN)")
	ErrTooBig       = errors.New("too big (E2BIG)")
	ErrNotPermitted = errors.New("not permitted (EPERM)")
	ErrQuota        = errors.New("over the domain's quota (EQUOTA)") // oxenstored's quotas
)

// Errors that come from this side.
var (
	// ErrUnknown says that the server answered with an error that xs_wire.h does
	// not have. It is wrapped with the name.
	ErrUnknown = errors.New("unknown error")
	// ErrClosed says that the connection is no more: closed by [Client.Close], or
	// dead. It is wrapped with what killed it.
	ErrClosed = errors.New("connection closed")
	// ErrTransactionEnded says that an operation came after the end of the
	// transaction which it was to be part of.
	ErrTransactionEnded = errors.New("transaction ended")
)

// wireErrors has what the wire calls each error, and the number that the kernel's
// device makes of it where it fails a write(2).
var wireErrors = [...]struct {
	name  string
	errno syscall.Errno
	err   error
}{
	{"EINVAL", syscall.EINVAL, ErrInvalid},
	{"EACCES", syscall.EACCES, ErrPermission},
	{"EEXIST", syscall.EEXIST, ErrExists},
	{"EISDIR", syscall.EISDIR, ErrIsDirectory},
	{"ENOENT", syscall.ENOENT, ErrNotFound},
	{"ENOMEM", syscall.ENOMEM, ErrNoMemory},
	{"ENOSPC", syscall.ENOSPC, ErrNoSpace},
	{"EIO", syscall.EIO, ErrIO},
	{"ENOTEMPTY", syscall.ENOTEMPTY, ErrNotEmpty},
	{"ENOSYS", syscall.ENOSYS, ErrNotSupported},
	{"EROFS", syscall.EROFS, ErrReadOnly},
	{"EBUSY", syscall.EBUSY, ErrBusy},
	{"EAGAIN", syscall.EAGAIN, ErrAgain},
	{"EISCONN", syscall.EISCONN, ErrConnected},
	{"E2BIG", syscall.E2BIG, ErrTooBig},
	{"EPERM", syscall.EPERM, ErrNotPermitted},
	{"EQUOTA", syscall.EDQUOT, ErrQuota},
}

// ParseError returns the error which the payload of a [TypeError] names: one of this
// package's, or [ErrUnknown]. It is never nil.
func ParseError(payload []byte) error {
	name, _, _ := bytes.Cut(payload, []byte{0})
	for _, e := range wireErrors {
		if e.name == string(name) {
			return e.err
		}
	}
	return fmt.Errorf("%w %s", ErrUnknown, quote(string(name)))
}

// AppendError appends the payload of a [TypeError] to b: the name of err on the wire,
// which is EIO if err is none of the server's errors.
func AppendError(b []byte, err error) []byte {
	for _, e := range wireErrors {
		if errors.Is(err, e.err) {
			return AppendString(b, e.name)
		}
	}
	return AppendString(b, "EIO")
}

// refusal tells whether err of a write(2) is the answer to the request written, as the
// kernel's device gives it, and which.
func refusal(err error) (error, bool) {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return nil, false
	}
	for _, e := range wireErrors {
		if e.errno == errno {
			return e.err, true
		}
	}
	return nil, false
}

// Error is an operation that failed.
type Error struct {
	// Op is "read", "write", "directory", "mkdir", "remove", "permissions",
	// "set permissions", "watch", "begin transaction" or "commit transaction".
	Op string
	// Path is as the caller gave it; empty for a transaction.
	Path string
	// Err is what happened: an error of this package, or that of the context.
	Err error
}

func (e *Error) Error() string {
	if e.Path == "" && (e.Op == opBegin || e.Op == opCommit) {
		return "xenstore: " + e.Op + ": " + e.Err.Error()
	}
	return "xenstore: " + e.Op + " " + quote(e.Path) + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// quote makes text that came from elsewhere fit for one line of a log.
func quote(s string) string {
	const most = 256
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	if CheckWatchPath(s) != nil {
		return strconv.Quote(s)
	}
	return s
}
