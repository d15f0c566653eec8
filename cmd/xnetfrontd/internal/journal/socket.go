package journal

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// DefaultSocket is where journald takes entries.
const DefaultSocket = "/run/systemd/journal/socket"

// sendBuffer is the size of the socket's buffer in bytes; sd_journal_sendv(3) asks for the
// same. The kernel gives less to a process that may not have so much.
const sendBuffer = 8 << 20

// Socket sends to journald. Any goroutine may call its methods; none of them waits.
type Socket struct {
	fd int
	to *unix.SockaddrUnix // by name: a journald that was restarted is reached again

	mu     sync.Mutex
	lost   int   // entries, since they were last reported
	reason error // of the last one
}

// Dial makes a Socket to the journald at path. It fails if no journald listens there.
func Dial(path string) (*Socket, error) {
	const kind = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
	if err != nil {
		return nil, fmt.Errorf("socket for the journal: %w", err)
	}
	to := &unix.SockaddrUnix{Name: path}
	if err := unix.Connect(fd, to); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the journal at %s: %w", path, err), unix.Close(fd))
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) // less is enough
	return &Socket{fd: fd, to: to}, nil
}

// Close closes the socket.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// write sends an entry, and before it the count of lost entries. An entry that cannot be sent
// counts as lost.
func (s *Socket) write(entry []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.report()
	if err == nil {
		err = s.send(entry)
	}
	if err != nil {
		s.lost++
		s.reason = err
	}
}

// flush sends the count of lost entries, if there are any.
func (s *Socket) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report()
}

// report is flush for a caller that holds s.mu.
func (s *Socket) report() error {
	if s.lost == 0 {
		return nil
	}
	err := s.send(lostEntry(s.lost, s.reason))
	if err == nil {
		s.lost = 0
	}
	return err
}

// send sends one entry.
func (s *Socket) send(entry []byte) error {
	err := s.sendmsg(entry, nil)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
		err = s.sendFile(entry)
	}
	return err
}

func (s *Socket) sendmsg(b, rights []byte) error {
	for {
		err := unix.Sendmsg(s.fd, b, rights, s.to, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// seals are the seals that journald demands of a memory file, so that nobody can change it
// later.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL

// sendFile sends an entry that no datagram can hold.
func (s *Socket) sendFile(entry []byte) (err error) {
	fd, err := unix.MemfdCreate("journal-entry", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("memory file for a large entry: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	for len(entry) > 0 {
		n, err := unix.Write(fd, entry)
		if err != nil {
			return fmt.Errorf("memory file for a large entry: %w", err)
		}
		entry = entry[n:]
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal a large entry: %w", err)
	}
	return s.sendmsg(nil, unix.UnixRights(fd))
}
