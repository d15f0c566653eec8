package hold

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// network is SOCK_SEQPACKET in package net's words.
const network = "unixpacket"

// maxRights is the most descriptors that the kernel passes with one message, SCM_MAX_FD
// in include/net/scm.h. With room for all of them, a truncated control message means
// that this process has no descriptors left.
const maxRights = 253

var (
	// errNoDescriptors says that the kernel could not give this process all descriptors
	// of a message: it is at its RLIMIT_NOFILE.
	errNoDescriptors = errors.New("no descriptors left (RLIMIT_NOFILE)")
	errTooLong       = errors.New("message is too long")
)

// receive reads one message into buf. The descriptors are the caller's, and there are
// none with an error. Errors other than errNoDescriptors and errTooLong end the
// connection.
func receive(conn *net.UnixConn, buf []byte) (n int, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*maxRights))
	n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
	// An empty message looks like the end of the connection, and may have descriptors
	// all the same.
	fds, rightsErr := parseRights(oob[:oobn])
	switch {
	case err != nil:
	case rightsErr != nil:
		err = rightsErr
	case flags&unix.MSG_CTRUNC != 0:
		err = errNoDescriptors
	case flags&unix.MSG_TRUNC != 0:
		err = errTooLong
	case n == 0:
		err = io.EOF
	}
	if err != nil {
		closeAll(fds)
		return n, nil, err
	}
	return n, fds, nil
}

// send sends one message, whole or not at all.
func send(conn *net.UnixConn, b []byte, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := conn.WriteMsgUnix(b, oob, nil)
	return err
}

// parseRights takes the descriptors out of control messages.
func parseRights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var fds []int
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		got, err := unix.ParseUnixRights(&messages[i])
		fds = append(fds, got...)
		if err != nil {
			return fds, fmt.Errorf("control message: %w", err)
		}
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// peer is who is at the other end of a connection: who called connect, or for a client
// who called listen. For a socket that systemd made, that is systemd.
func peer(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return nil, fmt.Errorf("ask for the peer's credentials: %w", err)
	}
	return cred, nil
}
