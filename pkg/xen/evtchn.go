//go:build linux

package xen

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of /dev/xen/evtchn (include/uapi/xen/evtchn.h, drivers/xen/evtchn.c):
// _IOC(_IOC_NONE, 'E', number, size of the argument). Each argument is one u32, the
// remote domain for the first and a local port for the others.
const (
	evtchnBindUnbound = 4<<16 | 'E'<<8 | 2 // the new port is the ioctl's result
	evtchnUnbind      = 4<<16 | 'E'<<8 | 3
	evtchnNotify      = 4<<16 | 'E'<<8 | 4
)

// portSize is the size of a port in what is read from and written to the device: an
// evtchn_port_t, u32 in the byte order of the machine.
const portSize = int(unsafe.Sizeof(Port(0)))

// eventDevice is [Events] on /dev/xen/evtchn.
type eventDevice struct {
	path string
}

// check tells now what would keep Open from working later. To close a descriptor that
// has never had a port is always safe.
func (d eventDevice) check() error {
	fd, err := openDevice(d.path, EvtchnModule)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// Open implements [Events].
func (d eventDevice) Open() (EventFile, error) {
	fd, err := openDevice(d.path, EvtchnModule)
	if err != nil {
		return nil, err
	}
	return &Evtchn{fd: fd}, nil
}

// Adopt implements [Events].
func (d eventDevice) Adopt(fd int) (EventFile, error) {
	if err := sameDevice(fd, func(st *unix.Stat_t) error { return unix.Stat(d.path, st) }); err != nil {
		return nil, fmt.Errorf("adopt event channels: %w", err)
	}
	f, err := AdoptEvtchn(fd)
	if err != nil {
		return nil, err // not a nil *Evtchn in an interface
	}
	return f, nil
}

// Evtchn is [EventFile] on one open file of /dev/xen/evtchn. The ports belong to the
// open file, not to the process: they live as long as any descriptor of it, in any
// process. So a process hands its ports over by passing [Evtchn.Handle] on and
// exiting.
//
// Nothing closes it but Close. Whoever learns that the guest was saved and restored
// must not call that, nor Unbind, nor Notify: the ports are dead, their numbers may
// be somebody else's by now, and Linux cannot release them (docs/kernel-bugs). The
// descriptor is then kept open for ever.
type Evtchn struct {
	// mu keeps Notify, which any goroutine may call, from using a number that Close
	// has given back. The owner's own calls need no lock.
	mu sync.RWMutex
	fd int // -1 once closed
}

// AdoptEvtchn takes over a descriptor that [Evtchn.Handle] returned in another
// process. A port that was delivered there and not unmasked is masked still, so the
// caller unmasks each of its ports once: that does nothing to the others.
func AdoptEvtchn(fd int) (*Evtchn, error) {
	if err := adoptDescriptor(fd); err != nil {
		return nil, fmt.Errorf("adopt event channels: %w", err)
	}
	return &Evtchn{fd: fd}, nil
}

// Handle returns a duplicate of the descriptor, which the caller owns.
func (f *Evtchn) Handle() (int, error) { return duplicate(f.fd) }

// FD implements [EventFile].
func (f *Evtchn) FD() int { return f.fd }

// Bind implements [EventFile].
func (f *Evtchn) Bind(remote DomID) (Port, error) {
	if f.fd < 0 {
		return 0, fmt.Errorf("bind event channel for domain %d: %w", remote, ErrClosed)
	}
	arg := uint32(remote)
	port, err := ioctl(f.fd, evtchnBindUnbound, unsafe.Pointer(&arg))
	if err != nil {
		return 0, fmt.Errorf("bind event channel for domain %d: %w", remote, err)
	}
	return Port(port), nil
}

// Notify implements [EventFile]. It is one ioctl and one hypercall, and allocates
// nothing unless it fails.
func (f *Evtchn) Notify(port Port) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return fmt.Errorf("notify port %d: %w", port, ErrClosed)
	}
	for {
		// Neither a lock held for long nor a wait is behind this request, so the
		// scheduler need not hear of it.
		_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(f.fd), evtchnNotify,
			uintptr(unsafe.Pointer(&port)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return portError("notify", port, errno)
		}
	}
}

// Read implements [EventFile]. The kernel hands out whole ports only. A port that was
// pending when it was unbound can still come once; the caller ignores what it does
// not know.
func (f *Evtchn) Read(ports []Port) (int, error) {
	if f.fd < 0 {
		return 0, fmt.Errorf("read event channels: %w", ErrClosed)
	}
	if len(ports) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(f.fd),
			uintptr(unsafe.Pointer(&ports[0])), uintptr(len(ports)*portSize))
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return 0, nil
		case errno != 0:
			return 0, fmt.Errorf("read event channels: %w", errno)
		case int(n)%portSize != 0:
			return 0, fmt.Errorf("read event channels: %d bytes are no whole number of ports", n)
		default:
			return int(n) / portSize, nil
		}
	}
}

// Unmask implements [EventFile]. The kernel ignores a port that is not bound here, or
// not masked.
func (f *Evtchn) Unmask(port Port) error {
	if f.fd < 0 {
		return fmt.Errorf("unmask port %d: %w", port, ErrClosed)
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(f.fd),
			uintptr(unsafe.Pointer(&port)), uintptr(portSize))
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return portError("unmask", port, errno)
		case int(n) != portSize:
			return fmt.Errorf("unmask port %d: %d bytes written of %d", port, n, portSize)
		default:
			return nil
		}
	}
}

// Unbind implements [EventFile].
func (f *Evtchn) Unbind(port Port) error {
	if f.fd < 0 {
		return fmt.Errorf("unbind port %d: %w", port, ErrClosed)
	}
	if _, err := ioctl(f.fd, evtchnUnbind, unsafe.Pointer(&port)); err != nil {
		return portError("unbind", port, err)
	}
	return nil
}

// Close implements [EventFile]. A second one does nothing.
func (f *Evtchn) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return nil
	}
	fd := f.fd
	f.fd = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close event channels: %w", err)
	}
	return nil
}

// portError says what was done to which port. The driver answers ENOTCONN for a port
// that is not of this open file.
func portError(op string, port Port, err error) error {
	if err == unix.ENOTCONN {
		err = ErrNotBound
	}
	return fmt.Errorf("%s port %d: %w", op, port, err)
}

// ioctl is ioctl(2) with a pointer, retried when a signal interrupts it (Go preempts
// goroutines with signals). The memory behind arg must be what the request's layout
// says: the callers pass structs written beside their request.
func ioctl(fd int, request uintptr, arg unsafe.Pointer) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
