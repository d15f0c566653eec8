//go:build linux

package xen

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of /dev/xen/gntalloc (include/uapi/xen/gntalloc.h,
// drivers/xen/gntalloc.c): _IOC(_IOC_NONE, 'G', number, size of the struct).
const (
	gntallocAlloc       = unsafe.Sizeof(allocGref{})<<16 | 'G'<<8 | 5
	gntallocDealloc     = unsafe.Sizeof(deallocGref{})<<16 | 'G'<<8 | 6
	gntallocUnmapNotify = unsafe.Sizeof(unmapNotify{})<<16 | 'G'<<8 | 7
)

// allocGref is struct ioctl_gntalloc_alloc_gref. The driver writes count grant
// references from refs on, beyond the struct's own end.
type allocGref struct {
	domid uint16
	flags uint16
	count uint32
	index uint64 // out: where to mmap the pages
	refs  [1]uint32
	_     uint32
}

const gntallocWritable = 1 // GNTALLOC_FLAG_WRITABLE

// maxGrant is the most pages of one request: their length in bytes fits an int on
// every architecture. A guest's whole grant table is far smaller.
const maxGrant = math.MaxInt32 / PageSize

// deallocGref is struct ioctl_gntalloc_dealloc_gref.
type deallocGref struct {
	index uint64
	count uint32
	_     uint32
}

// unmapNotify is struct ioctl_gntalloc_unmap_notify.
type unmapNotify struct {
	index  uint64 // of the byte: the page's index and the offset in it
	action uint32
	port   uint32
}

const (
	unmapClearByte = 1 // UNMAP_NOTIFY_CLEAR_BYTE
	unmapSendEvent = 2 // UNMAP_NOTIFY_SEND_EVENT
)

// gntallocLimit is the module's parameter: pages for the whole guest, 1024 unless
// somebody changed it, writable by root at any time.
const gntallocLimit = "/sys/module/xen_gntalloc/parameters/limit"

// Gntalloc is [Grants] on one open file of /dev/xen/gntalloc. The pages belong to the
// open file, not to the process: they stay granted as long as any descriptor of it is
// open, or a mapping stands, in any process. So a process hands its pages over by
// passing [Gntalloc.Handle] on and exiting without Free and Close, which would end
// the grants for both.
type Gntalloc struct {
	limitPath string

	mu   sync.Mutex
	fd   int // -1 once closed
	live map[*GntallocPages]struct{}
	left *leftBehind // of what was adopted, too
}

func openGntalloc(path, limitPath string) (*Gntalloc, error) {
	// The driver grants the first 4 KiB of each page of its own, so on a kernel with
	// larger pages the granted ones would not lie side by side.
	if size := os.Getpagesize(); size != PageSize {
		return nil, fmt.Errorf("open %s: the kernel has pages of %d bytes: %w (only %d)",
			path, size, errors.ErrUnsupported, PageSize)
	}
	fd, err := openDevice(path, GntallocModule)
	if err != nil {
		return nil, err
	}
	return newGntalloc(fd, limitPath), nil
}

func newGntalloc(fd int, limitPath string) *Gntalloc {
	return &Gntalloc{limitPath: limitPath, fd: fd, live: make(map[*GntallocPages]struct{}), left: new(leftBehind)}
}

// AdoptGntalloc takes over a descriptor that [Gntalloc.Handle] returned in another
// process. [Gntalloc.Remap] maps the pages that it has.
func AdoptGntalloc(fd int) (*Gntalloc, error) {
	if err := adoptDescriptor(fd); err != nil {
		return nil, fmt.Errorf("adopt grants: %w", err)
	}
	return newGntalloc(fd, gntallocLimit), nil
}

// Adopt implements [Grants]. The descriptor must be of the same device as this one.
func (g *Gntalloc) Adopt(fd int) (Grants, error) {
	g.mu.Lock()
	err := sameDevice(fd, func(st *unix.Stat_t) error { return unix.Fstat(g.fd, st) })
	g.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("adopt grants: %w", err)
	}
	adopted, err := AdoptGntalloc(fd)
	if err != nil {
		return nil, err
	}
	adopted.limitPath, adopted.left = g.limitPath, g.left
	return adopted, nil
}

// Handle returns a duplicate of the descriptor, which the caller owns.
func (g *Gntalloc) Handle() (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return duplicate(g.fd)
}

// Alloc implements [Grants]. All n pages come from one request and are mapped by one
// mmap: the driver finds the pages of a mapping that goes by walking its list of all
// grants, which is in order within one request only (gntalloc_vma_close).
func (g *Gntalloc) Alloc(peer DomID, n int, writable bool) (Pages, error) {
	if n <= 0 || n > maxGrant {
		return nil, fmt.Errorf("grant %d pages: %w", n, fs.ErrInvalid)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fd < 0 {
		return nil, fmt.Errorf("grant pages: %w", ErrClosed)
	}
	index, refs, err := g.request(peer, n, writable)
	if err != nil {
		return nil, err
	}
	p, err := g.mmap(index, refs)
	if err != nil {
		return nil, errors.Join(err, g.dealloc(index, n))
	}
	return p, nil
}

// Remap maps the pages of one Alloc of another process, whose open file this is:
// index is what [GntallocPages.Index] returned there, and refs are all their grant
// references, which the kernel does not tell a second time.
func (g *Gntalloc) Remap(index uint64, refs []GrantRef) (Pages, error) {
	if n := len(refs); n == 0 || n > maxGrant {
		return nil, fmt.Errorf("map %d granted pages: %w", n, fs.ErrInvalid)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fd < 0 {
		return nil, fmt.Errorf("map granted pages: %w", ErrClosed)
	}
	return g.mmap(index, slices.Clone(refs))
}

// mmap runs with the lock held.
func (g *Gntalloc) mmap(index uint64, refs []GrantRef) (*GntallocPages, error) {
	n := len(refs)
	mem, err := unix.Mmap(g.fd, int64(index), n*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %d granted pages: %w", n, err)
	}
	p := &GntallocPages{owner: g, index: index, mem: mem, refs: refs}
	g.live[p] = struct{}{}
	return p, nil
}

// request is the allocation itself: n pages, one grant reference each.
func (g *Gntalloc) request(peer DomID, n int, writable bool) (index uint64, refs []GrantRef, err error) {
	// Whole u64s, for the alignment that the struct needs. The references begin at
	// the struct's refs and fill what follows.
	const first = int(unsafe.Offsetof(allocGref{}.refs))
	size := max(first+n*int(unsafe.Sizeof(GrantRef(0))), int(unsafe.Sizeof(allocGref{})))
	buf := make([]uint64, (size+7)/8)
	arg := (*allocGref)(unsafe.Pointer(&buf[0]))
	arg.domid, arg.count = uint16(peer), uint32(n)
	if writable {
		arg.flags = gntallocWritable
	}
	if _, err := ioctl(g.fd, gntallocAlloc, unsafe.Pointer(arg)); err != nil {
		if err == unix.ENOSPC {
			return 0, nil, g.limitError(n)
		}
		return 0, nil, fmt.Errorf("grant %d pages to domain %d: %w", n, peer, err)
	}
	refs = make([]GrantRef, n)
	copy(refs, unsafe.Slice((*GrantRef)(unsafe.Pointer(&arg.refs)), n))
	g.left.found(refs)
	return arg.index, refs, nil
}

// limitError is the driver's ENOSPC in words. Xen's own grant table being full looks
// the same, but has room for 32 times the default limit.
func (g *Gntalloc) limitError(n int) error {
	limit, err := g.Limit()
	if err != nil {
		return fmt.Errorf("grant %d pages: %w", n, ErrGrantLimit)
	}
	return fmt.Errorf("grant %d pages: %w (%d in %s)", n, ErrGrantLimit, limit, g.limitPath)
}

func (g *Gntalloc) dealloc(index uint64, n int) error {
	arg := deallocGref{index: index, count: uint32(n)}
	if _, err := ioctl(g.fd, gntallocDealloc, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("end %d grants: %w", n, err)
	}
	return nil
}

// Limit implements [Grants].
func (g *Gntalloc) Limit() (int, error) {
	b, err := os.ReadFile(g.limitPath)
	if err != nil {
		return 0, fmt.Errorf("read the limit of granted pages: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("read the limit of granted pages: %s: %w", g.limitPath, err)
	}
	return n, nil
}

// RaiseLimit implements [Grants]. A /sys that is mounted read-only, as a sandbox has
// it, counts as not allowed.
func (g *Gntalloc) RaiseLimit(n int) error {
	if now, err := g.Limit(); err != nil || now >= n {
		return err
	}
	// No O_CREATE: where there is no such parameter, say so.
	f, err := os.OpenFile(g.limitPath, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(n))
		err = errors.Join(err, f.Close())
	}
	if errors.Is(err, unix.EROFS) {
		err = &fs.PathError{Op: "open", Path: g.limitPath, Err: fs.ErrPermission}
	}
	if err != nil {
		return fmt.Errorf("raise the limit of granted pages to %d: %w", n, err)
	}
	return nil
}

// Close implements [Grants]. It unmaps what was not freed, since a page's grant lasts
// as long as a mapping of it: nobody may touch any of the pages from here on. The driver
// ends the grants with the last descriptor (gntalloc_release). A second Close does
// nothing.
func (g *Gntalloc) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fd < 0 {
		return nil
	}
	var errs error
	for p := range g.live {
		mem := p.mem
		p.mem = nil
		if err := unix.Munmap(mem); err != nil {
			errs = errors.Join(errs, fmt.Errorf("unmap %d granted pages: %w", len(p.refs), err))
		}
	}
	clear(g.live)
	fd := g.fd
	g.fd = -1
	if err := unix.Close(fd); err != nil {
		errs = errors.Join(errs, fmt.Errorf("close grants: %w", err))
	}
	return errs
}

// GntallocPages is [Pages] on one allocation and its one mapping.
//
// The allocation could be given up (DEALLOC) as soon as it is mapped, and munmap
// alone would then end the grants. It is kept until Free instead: the next process,
// which gets the descriptor handed over, finds the pages by their index, and only
// while the open file has them.
//
// The memory is sound to use as bytes for as long as the mapping stands: the kernel
// puts the pages in when it maps them, and neither moves nor takes them.
type GntallocPages struct {
	owner *Gntalloc
	index uint64 // of the first page in the open file
	mem   []byte // nil once freed
	refs  []GrantRef
}

// Bytes implements [Pages].
func (p *GntallocPages) Bytes() []byte { return p.mem[:len(p.mem):len(p.mem)] }

// Refs implements [Pages].
func (p *GntallocPages) Refs() []GrantRef { return p.refs }

// Index implements [Pages].
func (p *GntallocPages) Index() uint64 { return p.index }

// NotifyUnmap implements [Pages]. The kernel acts when nothing in this domain uses
// the page any more: neither a mapping nor an open descriptor of this file. A page
// has one notification; each call replaces the one before it, and with nothing to do
// takes it away. Port's channel stays bound until then, even past its EventFile.
func (p *GntallocPages) NotifyUnmap(offset int, clear bool, port Port) error {
	p.owner.mu.Lock()
	defer p.owner.mu.Unlock()
	if p.mem == nil {
		return fmt.Errorf("notify of unmap: %w", ErrClosed)
	}
	if offset < 0 || offset >= len(p.mem) {
		return fmt.Errorf("notify of unmap: offset %d of %d bytes", offset, len(p.mem))
	}
	arg := unmapNotify{index: p.index + uint64(offset), port: uint32(port)}
	if clear {
		arg.action |= unmapClearByte
	}
	if port != 0 {
		arg.action |= unmapSendEvent
	}
	if _, err := ioctl(p.owner.fd, gntallocUnmapNotify, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("notify of unmap, port %d: %w", port, err)
	}
	return nil
}

// Free implements [Pages].
func (p *GntallocPages) Free() error {
	p.owner.mu.Lock()
	defer p.owner.mu.Unlock()
	if p.mem == nil {
		return fmt.Errorf("free granted pages: %w", ErrClosed)
	}
	return p.free()
}

// free runs with the owner's lock held.
func (p *GntallocPages) free() error {
	n := len(p.refs)
	mem := p.mem
	p.mem = nil
	delete(p.owner.live, p)
	var errs error
	if err := unix.Munmap(mem); err != nil {
		errs = fmt.Errorf("unmap %d granted pages: %w", n, err)
	}
	if errs = errors.Join(errs, p.owner.dealloc(p.index, n)); errs != nil {
		return errs
	}
	p.owner.left.add(p.refs)
	_ = p.owner.probe(n) // what cannot be found out now stays in the list
	return nil
}
