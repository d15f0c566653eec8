package controlserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// InUseError says that another process listens on the socket.
type InUseError struct {
	Path string
	PID  int // 0 when it is in a PID namespace that cannot be seen from here
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("control socket %s: pid %d listens on it already; stop that one, or choose another path with --control", e.Path, e.PID)
}

// dialTimeout bounds a connect to a daemon that no longer accepts.
const dialTimeout = 5 * time.Second

// listener is a unix socket that removes its path only while the path is its own.
type listener struct {
	*net.UnixListener
	path  string
	inode uint64
}

// listen makes the socket, with mode 0660 and its directory if need be. A socket
// that a dead daemon left is replaced; for one that is alive it fails with an
// *[InUseError].
func listen(path string) (*listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	// Two daemons that start at once must not both find the socket dead.
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("control socket: lock %s: %w", dir, err)
	}
	defer unlock()
	if err := removeDead(path); err != nil {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	var st unix.Stat_t
	err = os.Chmod(path, 0o660)
	if err == nil {
		err = unix.Stat(path, &st)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control socket %s: %w", path, err), ln.Close(), os.Remove(path))
	}
	return &listener{ln, path, st.Ino}, nil
}

func (l *listener) Close() error {
	err := l.UnixListener.Close()
	var st unix.Stat_t
	if unix.Stat(l.path, &st) == nil && st.Ino == l.inode {
		err = errors.Join(err, os.Remove(l.path))
	}
	return err
}

func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // nothing to do about a failed close of a directory
}

// removeDead removes path if it is a socket on which nobody listens.
func removeDead(path string) error {
	switch fi, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("control socket: %w", err)
	case fi.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("control socket %s: something that is not a socket has that name; remove it, or choose another path with --control", path)
	}
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	if errors.Is(err, unix.ECONNREFUSED) {
		return os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	pid := peerPID(conn.(*net.UnixConn))
	return errors.Join(&InUseError{Path: path, PID: pid}, conn.Close())
}

// peerPID is the process that called listen(2) on the other end (SO_PEERCRED of
// unix(7)).
func peerPID(c *net.UnixConn) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	if err != nil {
		return 0
	}
	return pid
}
