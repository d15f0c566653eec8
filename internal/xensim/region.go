package xensim

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

// region is the server's hold on memory that it shares with domains: a memfd, or
// heap memory where all domains are in this process.
type region struct {
	mem []byte
	fd  int // of the memfd; -1 for heap memory
}

// newRegion makes size zeroed bytes, a multiple of the page size. A memfd's size is
// sealed, so that no domain can take pages away under another's mapping.
func newRegion(name string, size int, heap bool) (*region, error) {
	if heap {
		return &region{mem: make([]byte, size), fd: -1}, nil
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("create memfd: %w", err)
	}
	r := &region{fd: fd}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		r.close()
		return nil, fmt.Errorf("size memfd: %w", err)
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		r.close()
		return nil, fmt.Errorf("seal memfd: %w", err)
	}
	if r.mem, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		r.close()
		return nil, fmt.Errorf("map memfd: %w", err)
	}
	return r, nil
}

// close gives the server's hold up. Mappings of others stay what they are.
func (r *region) close() {
	if r.fd < 0 {
		return
	}
	if r.mem != nil {
		unix.Munmap(r.mem)
		r.mem = nil
	}
	unix.Close(r.fd)
	r.fd = -1
}

// share returns what a client needs to reach size bytes at offset. A reader that
// may not write gets a descriptor that cannot be mapped for writing.
func (r *region) share(offset, size int, writable bool) (object, error) {
	if r.fd < 0 {
		return object{fd: -1, heap: r.mem[offset : offset+size : offset+size]}, nil
	}
	o := object{offset: offset, size: size, writable: writable}
	var err error
	if writable {
		o.fd, err = unix.FcntlInt(uintptr(r.fd), unix.F_DUPFD_CLOEXEC, 0)
	} else {
		o.fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", r.fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return object{fd: -1}, fmt.Errorf("share memory: %w", err)
	}
	return o, nil
}

// object is a piece of a region, or an eventfd, on its way to a client, which owns
// it from then on.
type object struct {
	fd       int    // a descriptor of the client's own; -1 with heap
	heap     []byte // the memory itself, in this process
	offset   int    // of the piece in the descriptor
	size     int
	writable bool
}

// close is for an object that nobody takes.
func (o *object) close() {
	if o.fd >= 0 {
		unix.Close(o.fd)
		o.fd = -1
	}
}

// view is a client's mapping of an object.
type view struct {
	mem    []byte
	mapped bool // to be unmapped
}

// open maps the object and closes its descriptor.
func (o *object) open() (view, error) {
	if o.fd < 0 {
		return view{mem: o.heap}, nil
	}
	defer o.close()
	prot := unix.PROT_READ
	if o.writable {
		prot |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(o.fd, int64(o.offset), o.size, prot, unix.MAP_SHARED)
	if err != nil {
		return view{}, fmt.Errorf("map shared memory: %w", err)
	}
	return view{mem: mem, mapped: true}, nil
}

func (v *view) close() error {
	mem := v.mem
	v.mem = nil
	if !v.mapped || mem == nil {
		return nil
	}
	return unix.Munmap(mem)
}

// word is the i-th 8-byte word of mem. It is sound because mem is a mapping or a
// heap slice of whole pages, aligned to 8 bytes, that lives as long as the slice,
// and because indexing checks the bounds.
func word(mem []byte, i int) *atomic.Uint64 {
	b := mem[i*8 : i*8+8 : i*8+8]
	return (*atomic.Uint64)(unsafe.Pointer(&b[0]))
}

// pages is n pages in bytes.
func pages(n int) int { return n * xen.PageSize }
