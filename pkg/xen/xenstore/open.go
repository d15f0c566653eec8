package xenstore

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// device is the guest kernel's own connection to xenstored, shared by all who open it
// (drivers/xen/xenbus/xenbus_dev_frontend.c). It speaks the wire protocol, except that
// its buffer of 4096 bytes has to hold a message with its header, and that a write(2)
// waits for a watch to be set up and fails with its error.
const device = "/dev/xen/xenbus"

// Open connects a guest to its xenstored through the kernel's device. It needs the
// rights on /dev/xen/xenbus, which root has.
func Open() (*Client, error) { return openDevice(device) }

// openDevice opens it for the netpoller, so that no thread waits in read(2) and Close
// ends a Read. The device has poll and non-blocking reads. It never reports POLLOUT,
// but neither does a write ever say EAGAIN. Each watch has a descriptor ([Connect]).
func openDevice(path string) (*Client, error) {
	return connect(func() (io.ReadWriteCloser, error) { return openFile(path) }, MaxPayload-HeaderSize)
}

func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open xenstore: %w", err)
	}
	// Where there is no poll os has made the file a blocking one, silently.
	if err := f.SetDeadline(time.Time{}); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open xenstore: poll %s: %w", path, err)
	}
	return f, nil
}

// Dial connects to the xenstored that listens on a unix socket, such as
// /run/xenstored/socket in domain 0. There relative paths belong to nobody's home.
func Dial(path string) (*Client, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to xenstored: %w", err)
	}
	return New(conn), nil
}
