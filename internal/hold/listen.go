package hold

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// maxPath is the longest path of a unix socket: sun_path less its final zero.
const maxPath = 107

// activated returns the socket that systemd listens on for this process, or nil. It
// takes LISTEN_FDS out of the environment.
func activated() (*net.UnixListener, error) {
	files := activation.Files(true)
	if len(files) == 0 {
		return nil, nil
	}
	defer func() {
		for _, f := range files {
			_ = f.Close() // the listener has its own
		}
	}()
	if len(files) != 1 {
		return nil, fmt.Errorf("systemd passed %d sockets: expected one ListenSequentialPacket=", len(files))
	}
	kind, err := unix.GetsockoptInt(int(files[0].Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return nil, fmt.Errorf("the socket that systemd passed is of type %d (%v): expected one ListenSequentialPacket=", kind, err)
	}
	l, err := net.FileListener(files[0])
	if err != nil {
		return nil, fmt.Errorf("the socket that systemd passed: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.New("the socket that systemd passed is no unix socket"), l.Close())
	}
	return u, nil
}

// ownSocket is a socket that this process made, and the lock on its path.
type ownSocket struct {
	*net.UnixListener
	lock *os.File
}

// listen makes a socket at path. A lock beside it keeps two holders apart; a socket
// that a dead one left is replaced. With public, any user may connect, to be judged by
// its credentials.
func listen(path string, public bool) (*ownSocket, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("socket path of %d bytes: at most %d are possible", len(path), maxPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make directory for the socket: %w", err)
	}
	lock, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	l, err := bind(path, public)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &ownSocket{l, lock}, nil
}

// release lets another holder have the path. The socket is gone already: the listener
// removes it when it is closed.
func (s *ownSocket) release() error { return s.lock.Close() }

func bind(path string, public bool) (*net.UnixListener, error) {
	switch info, err := os.Lstat(path); {
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is there and is no socket: remove it, or choose another --socket", path)
	case err == nil:
		// Whoever listened there had the lock, which is ours now.
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale socket: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	if err != nil {
		return nil, err
	}
	mode := fs.FileMode(0o600)
	if public {
		mode = 0o666
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// takeLock locks the path of a socket. When it is taken, the error names the process
// that has it. The file stays when the process ends: removing it would let two
// processes lock two files of one name.
func takeLock(socket string) (*os.File, error) {
	path := socket + ".lock"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := plainFile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("open lock: %w", err), f.Close())
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another holder, pid %s, has %s; use that one, or choose another --socket", lockOwner(f), socket)
	} else if err != nil {
		err = fmt.Errorf("lock %s: %w", path, err)
	}
	if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// plainFile tells whether what was opened as a lock is one. The directory can be another
// user's, and what is written is not to go into some other file that has this name.
func plainFile(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return fmt.Errorf("%s is no plain file, or has a second name (a hard link): remove it", f.Name())
	}
	return nil
}

// lockOwner is the process that a lock names: a number, whatever else is in the file.
func lockOwner(f *os.File) string {
	b := make([]byte, 20)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.ParseUint(strings.TrimSpace(string(b[:n])), 10, 31)
	if err != nil {
		return "unknown"
	}
	return strconv.FormatUint(pid, 10)
}
