package localsocket

import (
	"net"

	"golang.org/x/sys/unix"
)

// Credentials are what the kernel noted when the other end called connect(2), or listen(2):
// SO_PEERCRED of unix(7). The pid is 0 for a process in a PID namespace that this process
// cannot see.
func Credentials(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return nil, err
	}
	return cred, failed
}
