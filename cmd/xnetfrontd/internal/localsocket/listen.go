// Package localsocket makes the daemon's unix sockets. It replaces a socket that a dead daemon
// left, and leaves one alone that is in use.
package localsocket

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
	Name Name
	Path string
	PID  int // 0: it is in a PID namespace that this process cannot see
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s %s: pid %d listens on it already; stop that one, or choose another path with %s", e.Name.What, e.Path, e.PID, e.Name.Setting)
}

// Name is the name of a socket in errors.
type Name struct {
	What    string // such as "control socket"
	Setting string // the option that sets its path
}

// dialTimeout bounds a connect to a daemon that no longer accepts.
const dialTimeout = 5 * time.Second

// Listener is a unix stream socket. Its Close removes the path, if that is still its own.
type Listener struct {
	*net.UnixListener
	path  string
	inode uint64
}

// Listen makes the socket with mode 0660, and its directory if there is none. It replaces a
// socket that a dead daemon left. It fails with an *[InUseError] if a process listens there.
func Listen(path string, name Name) (*Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("%s: %w", name.What, err)
	}
	// Two daemons that start at once must not both find the socket dead.
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: lock %s: %w", name.What, dir, err)
	}
	defer unlock()
	if err := removeDead(path, name); err != nil {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name.What, err)
	}
	ln.SetUnlinkOnClose(false)
	var st unix.Stat_t
	err = os.Chmod(path, 0o660)
	if err == nil {
		err = unix.Stat(path, &st)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s %s: %w", name.What, path, err), ln.Close(), os.Remove(path))
	}
	return &Listener{ln, path, st.Ino}, nil
}

// Close stops listening.
func (l *Listener) Close() error {
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
	return func() { _ = f.Close() }, nil // a failed close of a directory has no effect here
}

// removeDead removes path if it is a socket on which nobody listens.
func removeDead(path string, name Name) error {
	switch fi, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", name.What, err)
	case fi.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s %s: something that is not a socket has that name; remove it, or choose another path with %s", name.What, path, name.Setting)
	}
	conn, err := net.DialTimeout("unix", path, dialTimeout)
	if errors.Is(err, unix.ECONNREFUSED) {
		return os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name.What, err)
	}
	inUse := &InUseError{Name: name, Path: path}
	if cred, err := Credentials(conn.(*net.UnixConn)); err == nil {
		inUse.PID = int(cred.Pid)
	}
	return errors.Join(inUse, conn.Close())
}
