package tap

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how many operations one ring holds. Past 32 a batch gains nothing
// any more, and what is in the kernel is not preemptible for Go.
const maxDepth = 64

// worthRing is the least batch for which the ring is used. Its system call and its
// bookkeeping cost some 430 ns, against 160 ns for each plain system call saved
// (measured on 6.18; where system calls are dearer, so is io_uring_enter).
const worthRing = 4

// uring is one io_uring, used as a way to make many system calls of one kind on one
// descriptor in a single one: every operation carries RWF_NOWAIT, so it completes
// before io_uring_enter returns, and none is ever left in the kernel.
//
// It is owned by one goroutine, which may move between threads (so no
// IORING_SETUP_SINGLE_ISSUER). The kernel lets it do one opcode on one registered file
// and nothing else (see newUring): its operations pass by seccomp filters, which must
// not open a door for anybody who gets hold of the ring.
//
// The kernel shares three arrays with us:
//
//	submission ring  head, tail u32; an array of indices into the entries, which is
//	                 the identity here, written once
//	entries          64 bytes each, ours to write
//	completion ring  head, tail u32; 16 bytes each: user_data u64, res s32, flags u32
//
// We write the submission ring's tail and the completion ring's head, the kernel the
// other two; they go through sync/atomic. The kernel reads the submission tail only
// inside io_uring_enter (there is no polling thread), so entries that it has not
// consumed when that returns are overwritten by the next batch.
//
// unsafe: the views lie inside the two mappings, at offsets that the kernel gave and
// newUring checked, and hold no Go pointers. Addresses of Go memory are stored as
// integers, so the owner keeps the memory reachable until submit has returned; it must
// also keep it off the stack, which can move (see Reader.pins).
type uring struct {
	fd      int
	opcode  uint8
	mapping []byte // both rings (IORING_FEAT_SINGLE_MMAP)
	table   []byte // the entries

	sqTail, cqHead, cqTail *uint32
	sqes                   []sqe
	cqes                   []cqe
	tail                   uint32 // submission tail, our copy
	head                   uint32 // completion head, our copy

	// results of the last submit: bytes or a negative errno, by position.
	results []int32
	refused unix.Errno // see submit
}

// sqe is struct io_uring_sqe, 64 bytes, with the names that READ and WRITEV use.
type sqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32  // index of the registered file
	off      uint64 // a TAP has no offset: 0
	addr     uint64 // buffer, or array of iovecs
	len      uint32 // bytes, or number of iovecs
	rwFlags  uint32
	userData uint64
	_        [3]uint64
}

// cqe is struct io_uring_cqe, 16 bytes.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// depth is how many operations one submit can hold.
func (u *uring) depth() int { return len(u.sqes) }

// put writes the operation for position i of the batch, i < depth.
func (u *uring) put(i int, addr unsafe.Pointer, n int) {
	e := &u.sqes[(u.tail+uint32(i))&uint32(len(u.sqes)-1)]
	e.addr = uint64(uintptr(addr))
	e.len = uint32(n)
	e.userData = uint64(i)
}

// submit runs the first n operations put, in order, and fills their results. Should the
// kernel refuse to take them all, the first done ran, the others did not and can be done
// in another way; refused says why. An error means that operations may still be running:
// then neither their memory nor the ring can be used any more.
//
// RawSyscall: nothing here sleeps, so the thread keeps its CPU busy from beginning to
// end, and giving its P away in between (which costs 30 ns, and a queue of the
// scheduler when it comes true) would only put two threads on one CPU. What it delays
// is a stop of the world, by one batch; and no batch allocates.
func (u *uring) submit(n int) (done int, err error) {
	atomic.StoreUint32(u.sqTail, u.tail+uint32(n))
	for done < n {
		// An entry which the kernel rejects ends the call early, with its completion.
		r, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(n-done), 0, 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 || r == 0 {
			u.refused = errno
			break
		}
		done += int(r)
	}
	u.tail += uint32(done)
	return done, u.reap(done)
}

// usable says whether the ring can be tried again after it refused something: a lack
// of memory passes, anything else (a seccomp filter set meanwhile, say) does not.
func (u *uring) usable() bool {
	return u.refused == unix.EAGAIN || u.refused == unix.ENOMEM || u.refused == unix.EBUSY
}

// reap collects n completions. They are there when io_uring_enter returns; should one
// not be, it is waited for, as the kernel still uses the buffer until it is.
func (u *uring) reap(n int) error {
	mask := uint32(len(u.cqes) - 1)
	for seen := 0; ; {
		for tail := atomic.LoadUint32(u.cqTail); u.head != tail; u.head++ {
			c := &u.cqes[u.head&mask]
			if c.userData < uint64(len(u.results)) {
				u.results[c.userData] = c.res
			}
			seen++
		}
		atomic.StoreUint32(u.cqHead, u.head)
		if seen >= n {
			return nil
		}
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), 0, uintptr(n-seen), enterGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return fmt.Errorf("wait for io_uring: %w", errno)
		}
	}
}

// close gives the registered file back at once (the ring itself is torn down by a
// kernel worker some milliseconds later, and until then the queue would stay attached),
// then ends the ring.
func (u *uring) close() error {
	errs := []error{
		u.register(unregisterFiles, nil, 0),
		unix.Munmap(u.table),
		unix.Munmap(u.mapping),
		unix.Close(u.fd),
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close io_uring: %w", err)
	}
	return nil
}

func (u *uring) register(op uintptr, arg unsafe.Pointer, n int) error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(u.fd), op, uintptr(arg), uintptr(n), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
