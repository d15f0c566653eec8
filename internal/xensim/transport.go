package xensim

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// caller is a client's side of an open file. Any goroutine may call it. The error of
// call is a [unix.Errno], or says that the server is gone.
type caller interface {
	call(q request) (reply, error)
	close() error
}

// errno is the number that goes to the client for a server's error.
func errno(err error) unix.Errno {
	var n unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &n):
		return n
	}
	return unix.EIO
}

// localCaller calls a handle of a server in this process.
type localCaller struct {
	handle handle
	once   sync.Once
	forget func()
}

func (c *localCaller) call(q request) (reply, error) {
	r, err := c.handle.call(q)
	if err != nil {
		return reply{}, errno(err)
	}
	return r, nil
}

func (c *localCaller) close() error {
	c.once.Do(func() {
		c.handle.close()
		c.forget()
	})
	return nil
}

// Close is for the server to end the handle.
func (c *localCaller) Close() error { return c.close() }

// socketCaller calls over a socket, on which one request waits at a time.
type socketCaller struct {
	mu   sync.Mutex
	conn *net.UnixConn
}

func (c *socketCaller) call(q request) (reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return exchange(c.conn, q)
}

// exchange sends a request and awaits the reply. Replies to others, which a process that
// had the same handle did not live to read, are thrown away.
func exchange(conn *net.UnixConn, q request) (reply, error) {
	q.Tag = rand.Uint64()
	if _, err := conn.Write(q.append(make([]byte, 0, requestSize))); err != nil {
		return reply{}, fmt.Errorf("call the hypervisor: %w", err)
	}
	for {
		r, mine, err := receiveReply(conn, q.replySize(), q.Tag)
		if mine || err != nil {
			return r, err
		}
	}
}

func (c *socketCaller) close() error {
	if err := c.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// duplicateHandle returns a descriptor of a handle that is a socket.
func duplicateHandle(c caller) (int, error) {
	s, ok := c.(*socketCaller)
	if !ok {
		return -1, fmt.Errorf("pass a handle of this process's own Xen: %w", errors.ErrUnsupported)
	}
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	err = raw.Control(func(own uintptr) {
		fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(err, dupErr); err != nil {
		return -1, fmt.Errorf("duplicate handle: %w", err)
	}
	return fd, nil
}

// receiveReply reads one message. Mine is false, and then there is nothing to use, if it
// answers another request than the one with that tag.
func receiveReply(conn *net.UnixConn, size int, tag uint64) (r reply, mine bool, err error) {
	buf := make([]byte, size)
	oob := make([]byte, unix.CmsgSpace(4*maxObjects))
	n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return reply{}, false, fmt.Errorf("await the hypervisor: %w", err)
	}
	fds, err := parseRights(oob[:oobn])
	switch {
	case err == nil && n >= replyHeader && !answers(buf[:n], tag):
		closeAll(fds)
		return reply{}, false, nil
	case err != nil || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		closeAll(fds)
		return reply{}, false, unix.EPROTO
	}
	r, no := parseReply(buf[:n], fds)
	if no != 0 {
		return reply{}, true, no
	}
	return r, true, nil
}

func sendReply(conn *net.UnixConn, tag uint64, r *reply, err error) error {
	var oob []byte
	if len(r.Objects) > 0 {
		fds := make([]int, len(r.Objects))
		for i, o := range r.Objects {
			fds[i] = o.fd
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(appendReply(nil, tag, r, errno(err)), oob, nil)
	r.close()
	return err
}

// parseRights takes the descriptors out of a control message.
func parseRights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// openSocket opens a handle at the server in dir.
func openSocket(dir string, q request) (*net.UnixConn, reply, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: hypercallSocket(dir), Net: "unixpacket"})
	if err != nil {
		return nil, reply{}, err
	}
	r, err := exchange(conn, q)
	if err != nil {
		conn.Close()
		return nil, reply{}, err
	}
	return conn, r, nil
}

// adoptSocket makes a connection of a descriptor, which it takes over.
func adoptSocket(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "hypercalls")
	if f == nil {
		return nil, unix.EBADF
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, unix.ENOTSOCK
	}
	return u, nil
}

// socketPair is two connected stream sockets.
func socketPair() (a, b int, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("create socket pair: %w", err)
	}
	return p[0], p[1], nil
}

// serveHandle answers one socket's requests until its other side is closed in every
// process that had it, or sends what is no request.
func (s *Server) serveHandle(conn *net.UnixConn) {
	defer conn.Close()
	q, err := receiveRequest(conn)
	if err != nil {
		return
	}
	if q.Op == opOpenStore {
		r, err := s.openStore(q)
		sendReply(conn, q.Tag, &r, err)
		return
	}
	h, err := s.hypervisor.open(q)
	if err != nil {
		sendReply(conn, q.Tag, &reply{}, err)
		return
	}
	defer h.close()
	if sendReply(conn, q.Tag, &reply{}, nil) != nil {
		return
	}
	for {
		q, err := receiveRequest(conn)
		if err != nil {
			return
		}
		r, err := h.call(q)
		if sendReply(conn, q.Tag, &r, err) != nil {
			return
		}
	}
}

// receiveRequest reads one message. Descriptors that come with it are closed by the
// kernel, since no room is offered for them.
func receiveRequest(conn *net.UnixConn) (request, error) {
	var buf [requestSize + 1]byte
	n, _, _, _, err := conn.ReadMsgUnix(buf[:], nil)
	if err != nil {
		return request{}, err
	}
	q, ok := parseRequest(buf[:n])
	if !ok {
		return request{}, io.ErrUnexpectedEOF
	}
	return q, nil
}
