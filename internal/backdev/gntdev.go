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

// Requests of /dev/xen/gntdev (include/uapi/xen/gntdev.h, drivers/xen/gntdev.c):
// _IOC(_IOC_NONE, 'G', number, size of the argument).
const (
	gntdevMap   = 24<<16 | 'G'<<8 // number 0
	gntdevUnmap = 16<<16 | 'G'<<8 | 1
)

// mapRequest is struct ioctl_gntdev_map_grant_ref for one page.
type mapRequest struct {
	count  uint32
	_      uint32
	index  uint64 // set by the kernel: where mmap(2) finds the page
	domain uint32
	ref    uint32
}

// unmapRequest is struct ioctl_gntdev_unmap_grant_ref.
type unmapRequest struct {
	index uint64
	count uint32
	_     uint32
}

// page is a mapping of gntdev. While it stands Xen lets nobody end the grant.
type page struct {
	d     *Domain
	mem   []byte
	index uint64
}

// MapGrant implements [netback.Domain]. The kernel tells [unix.EINVAL] whatever is wrong
// with the grant.
func (d *Domain) MapGrant(from xen.DomID, ref xen.GrantRef, writable bool) (netback.Page, error) {
	q := mapRequest{count: 1, domain: uint32(from), ref: uint32(ref)}
	if err := ioctl(d.maps, gntdevMap, unsafe.Pointer(&q)); err != nil {
		return nil, fmt.Errorf("map grant %d of domain %d: %w", ref, from, err)
	}
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(d.maps, int64(q.index), xen.PageSize, prot, unix.MAP_SHARED)
	p := &page{d: d, mem: mem, index: q.index}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map grant %d of domain %d: %w", ref, from, err), p.forget())
	}
	return p, nil
}

// MapForCopy implements [netback.Domain]. What is mapped stays granted.
func (d *Domain) MapForCopy(from xen.DomID, ref xen.GrantRef, writable bool) (netback.Page, error) {
	return d.MapGrant(from, ref, writable)
}

func (p *page) Bytes() []byte { return p.mem }

func (p *page) Live() bool { return true }

func (p *page) Unmap() error {
	if p.mem == nil {
		return fmt.Errorf("unmap a granted page: %w", xen.ErrClosed)
	}
	mem := p.mem
	p.mem = nil
	return errors.Join(unix.Munmap(mem), p.forget())
}

// forget has the kernel give up the index, and with it what is mapped there no more.
func (p *page) forget() error {
	q := unmapRequest{index: p.index, count: 1}
	return ioctl(p.d.maps, gntdevUnmap, unsafe.Pointer(&q))
}

// ioctl is ioctl(2) with a pointer to a struct that is laid out as request says.
func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}
