//go:build linux

package backdev

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// evtchnBindInterdomain is a request of /dev/xen/evtchn (include/uapi/xen/evtchn.h):
// _IOC(_IOC_NONE, 'E', 1, 8). Its result is the new port.
const evtchnBindInterdomain = 8<<16 | 'E'<<8 | 1

// bindRequest is struct ioctl_evtchn_bind_interdomain.
type bindRequest struct {
	domain uint32
	port   uint32
}

// events is [netback.Events] on one open file of /dev/xen/evtchn.
type events struct{ *xen.Evtchn }

// OpenEvents implements [netback.Domain].
func (d *Domain) OpenEvents() (netback.Events, error) {
	fd, err := openDevice("/dev/xen/evtchn", unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f, err := xen.AdoptEvtchn(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return events{f}, nil
}

// BindInterdomain implements [netback.Events].
func (e events) BindInterdomain(remote xen.DomID, port xen.Port) (xen.Port, error) {
	q := bindRequest{domain: uint32(remote), port: uint32(port)}
	for {
		local, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.FD()), evtchnBindInterdomain, uintptr(unsafe.Pointer(&q)))
		switch errno {
		case 0:
			return xen.Port(local), nil
		case unix.EINTR:
		default:
			return 0, fmt.Errorf("bind to port %d of domain %d: %w", port, remote, errno)
		}
	}
}
