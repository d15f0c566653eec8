package tap

import (
	"errors"
	"fmt"
	"math/bits"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What is used of io_uring: numbers and layouts are the kernel's ABI, from
// include/uapi/linux/io_uring.h.
const (
	opWritev = 2  // IORING_OP_WRITEV
	opRead   = 22 // IORING_OP_READ

	setupDisabled  = 1 << 6     // IORING_SETUP_R_DISABLED
	featSingleMmap = 1 << 0     // IORING_FEAT_SINGLE_MMAP
	sqeFixedFile   = 1 << 0     // IOSQE_FIXED_FILE
	enterGetEvents = 1 << 0     // IORING_ENTER_GETEVENTS
	offsetRings    = 0          // IORING_OFF_SQ_RING
	offsetEntries  = 0x10000000 // IORING_OFF_SQES

	registerFiles   = 2  // IORING_REGISTER_FILES
	unregisterFiles = 3  // IORING_UNREGISTER_FILES
	registerLimits  = 11 // IORING_REGISTER_RESTRICTIONS
	registerEnable  = 12 // IORING_REGISTER_ENABLE_RINGS

	limitRegisterOp    = 0 // IORING_RESTRICTION_REGISTER_OP
	limitSQEOp         = 1 // IORING_RESTRICTION_SQE_OP
	limitFlagsRequired = 3 // IORING_RESTRICTION_SQE_FLAGS_REQUIRED
)

// uringParams is struct io_uring_params, 120 bytes: asked with Flags, answered with
// the rest.
type uringParams struct {
	SQEntries, CQEntries, Flags, _, _, Features, _ uint32
	_                                              [3]uint32
	SQ                                             sqOffsets
	CQ                                             cqOffsets
}

// sqOffsets is struct io_sqring_offsets: bytes from the start of the ring mapping.
type sqOffsets struct {
	Head, Tail, Mask, Entries, Flags, Dropped, Array, _ uint32
	_                                                   uint64
}

// cqOffsets is struct io_cqring_offsets: bytes from the start of the ring mapping.
type cqOffsets struct {
	Head, Tail, Mask, Entries, Overflow, CQEs, Flags, _ uint32
	_                                                   uint64
}

// uringLimit is struct io_uring_restriction, 16 bytes.
type uringLimit struct {
	kind  uint16
	value uint8 // an opcode of io_uring_register or of an entry, or flags of an entry
	_     [13]byte
}

// newUring makes a ring of at least depth operations, at most maxDepth, that does
// nothing but opcode on file. It starts disabled, so that there is no moment in which
// it could do more. Kernels before 5.10 have no such limits and fail here, as do
// io_uring_disabled and seccomp filters.
func newUring(opcode uint8, file, depth int) (*uring, error) {
	entries := 1 << bits.Len(uint(min(max(depth, 1), maxDepth)-1))
	params := uringParams{Flags: setupDisabled}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("set up io_uring: %w", errno)
	}
	u := &uring{fd: int(fd), opcode: opcode}
	err := u.mapRings(&params)
	if err == nil {
		err = u.limit(file)
	}
	if err != nil {
		// munmap of what was not mapped fails, and closing the descriptor is enough.
		unix.Munmap(u.table)
		unix.Munmap(u.mapping)
		unix.Close(u.fd)
		return nil, err
	}
	return u, nil
}

func (u *uring) mapRings(p *uringParams) (err error) {
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if p.Features&featSingleMmap == 0 {
		return errors.New("set up io_uring: the kernel maps the two rings apart")
	}
	entries, completions := int(p.SQEntries), int(p.CQEntries)
	size := max(int(p.SQ.Array)+4*entries, int(p.CQ.CQEs)+completions*int(unsafe.Sizeof(cqe{})))
	if u.mapping, err = unix.Mmap(u.fd, offsetRings, size, prot, flags); err != nil {
		return fmt.Errorf("map io_uring's rings: %w", err)
	}
	if u.table, err = unix.Mmap(u.fd, offsetEntries, entries*int(unsafe.Sizeof(sqe{})), prot, flags); err != nil {
		return fmt.Errorf("map io_uring's entries: %w", err)
	}
	for _, o := range []uint32{p.SQ.Tail, p.CQ.Head, p.CQ.Tail} {
		if int(o)+4 > size || o%4 != 0 {
			return fmt.Errorf("map io_uring's rings: offset %d in %d bytes", o, size)
		}
	}
	if p.SQ.Array%4 != 0 || p.CQ.CQEs%8 != 0 || bits.OnesCount(uint(entries)) != 1 || bits.OnesCount(uint(completions)) != 1 {
		return errors.New("map io_uring's rings: odd geometry")
	}
	u.sqTail = (*uint32)(unsafe.Pointer(&u.mapping[p.SQ.Tail]))
	u.cqHead = (*uint32)(unsafe.Pointer(&u.mapping[p.CQ.Head]))
	u.cqTail = (*uint32)(unsafe.Pointer(&u.mapping[p.CQ.Tail]))
	u.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&u.mapping[p.CQ.CQEs])), completions)
	u.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&u.table[0])), entries)
	u.results = make([]int32, entries)
	array := unsafe.Slice((*uint32)(unsafe.Pointer(&u.mapping[p.SQ.Array])), entries)
	for i := range u.sqes {
		array[i] = uint32(i)
		u.sqes[i] = sqe{opcode: u.opcode, flags: sqeFixedFile, rwFlags: unix.RWF_NOWAIT}
	}
	return nil
}

// limit registers the file, forbids everything but one opcode on registered files and
// the return of the file, and enables the ring.
func (u *uring) limit(file int) error {
	files := [1]int32{int32(file)}
	if err := u.register(registerFiles, unsafe.Pointer(&files), len(files)); err != nil {
		return fmt.Errorf("register queue with io_uring: %w", err)
	}
	limits := [...]uringLimit{
		{kind: limitSQEOp, value: u.opcode},
		{kind: limitFlagsRequired, value: sqeFixedFile},
		{kind: limitRegisterOp, value: unregisterFiles},
	}
	err := u.register(registerLimits, unsafe.Pointer(&limits), len(limits))
	// EBUSY: the ring was made with the limits of the whole process, see RestrictUring,
	// and takes none of its own any more.
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("restrict io_uring: %w", err)
	}
	if err := u.register(registerEnable, nil, 0); err != nil {
		return fmt.Errorf("enable io_uring: %w", err)
	}
	return nil
}

// uringTaskLimits is struct io_uring_task_restriction with its table.
type uringTaskLimits struct {
	_      uint16
	n      uint16
	_      [3]uint32
	limits [7]uringLimit
}

// RestrictUring limits io_uring, in this process and in those that it starts, to what
// this package uses it for: reads and writes of files that are registered with a ring.
// Rings would do anything else past a seccomp filter, which sees only that they are
// entered. It cannot be taken back. Existing rings are not limited.
//
// It fails before Linux 7.0, which has no limits but those of a ring, without
// CAP_SYS_ADMIN or no_new_privs, where io_uring is refused or limited already, and with
// [errors.ErrUnsupported] in a binary with cgo, whose threads Go does not all know.
func RestrictUring() error {
	// What io_register_restrictions_task in io_uring/register.c takes: one argument, on
	// ring -1, which stands for the task. A thread that begins has the limits of the one
	// that made it.
	t := uringTaskLimits{limits: [...]uringLimit{
		{kind: limitSQEOp, value: opRead},
		{kind: limitSQEOp, value: opWritev},
		{kind: limitFlagsRequired, value: sqeFixedFile},
		{kind: limitRegisterOp, value: registerFiles},
		{kind: limitRegisterOp, value: unregisterFiles},
		{kind: limitRegisterOp, value: registerLimits},
		{kind: limitRegisterOp, value: registerEnable},
	}}
	t.n = uint16(len(t.limits))
	const task = ^uintptr(0)
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_IO_URING_REGISTER, task, registerLimits, uintptr(unsafe.Pointer(&t)), 1, 0, 0)
	if errno != 0 {
		return fmt.Errorf("restrict io_uring for the process: %w", errno)
	}
	return nil
}

// errUringOff is why a device made with Config.NoUring uses no io_uring.
var errUringOff = errors.New("io_uring is switched off")

// makeUring makes a ring, as newUring does.
type makeUring func(opcode uint8, file, depth int) (*uring, error)

// tryUring says why io_uring cannot be used; nil when it can. It tries both
// operations on the keeper queue, which never holds a frame and on which nothing can be
// lost: a read must find it empty at once, and a write of one byte must be refused for
// want of a virtio header, whether the link is up or not. That exercises the setup, the
// restrictions, the registered file and RWF_NOWAIT, which older tun drivers refuse.
func (d *Device) tryUring(keeper int) error {
	if d.noUring {
		return errUringOff
	}
	buf := make([]byte, 1)
	if err := d.probeUring(opRead, keeper, unsafe.Pointer(&buf[0]), 1, unix.EAGAIN); err != nil {
		return err
	}
	iov := []unix.Iovec{{Base: &buf[0], Len: 1}}
	return d.probeUring(opWritev, keeper, unsafe.Pointer(&iov[0]), 1, unix.EINVAL)
}

// probeUring runs one operation and wants its error. addr points into the heap.
func (d *Device) probeUring(opcode uint8, keeper int, addr unsafe.Pointer, n int, want unix.Errno) error {
	u, err := d.newUring(opcode, keeper, 1)
	if err != nil {
		return err
	}
	u.put(0, addr, n)
	done, err := u.submit(1)
	got, refused := -u.results[0], u.refused
	if err = errors.Join(err, u.close()); err != nil {
		return err
	}
	if done == 0 {
		return fmt.Errorf("probe io_uring: submit: %w", refused)
	}
	if got != int32(want) {
		return fmt.Errorf("probe io_uring: operation %d gave %d, want errno %d", opcode, got, want)
	}
	return nil
}
