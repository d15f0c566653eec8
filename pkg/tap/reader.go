package tap

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrBuffers says that a Read or Write was called with slices that do not fit each
// other, or with an empty buffer.
var ErrBuffers = errors.New("buffers do not fit")

// maxRefused bounds how many frames in a row may fail to be read in one call.
const maxRefused = 256

// Reader takes the frames that Linux sends through one queue. It is owned by one
// goroutine and ends with its queue.
type Reader struct {
	queue  *Queue
	opened *uring // to be closed, whether it is used or not; may be nil
	fd     int
	ring   *uring // nil: plain reads
	// pins holds what the kernel writes to during a batch. That a pointer to it is
	// stored here makes the compiler keep the memory on the heap, which does not move
	// as a stack does. It is cleared after each batch: a pointer to unmapped memory
	// must not be left where the garbage collector looks.
	pins    []*byte
	run     int // frames read since the queue was last seen empty
	expect  int // half of what run was before
	refused atomic.Uint64
}

// NewReader makes a reader whose batches have up to depth frames (at most 64; longer
// Reads take several). A queue has one reader at a time. It fails only on a closed queue.
func (q *Queue) NewReader(depth int) (*Reader, error) {
	fd, ring, err := q.newRing(opRead, depth)
	if err != nil {
		return nil, fmt.Errorf("create reader: %w", err)
	}
	r := &Reader{queue: q, opened: ring, fd: fd, ring: ring}
	if ring != nil {
		r.pins = make([]*byte, ring.depth())
	}
	return r, nil
}

// Close ends the reader and leaves the queue as it is. The queue's own Close does it
// too. A second Close does nothing.
func (r *Reader) Close() error { return r.queue.endRing(r.opened) }

// Batched says whether the reader uses io_uring. It belongs to the reader's goroutine.
func (r *Reader) Batched() bool { return r.ring != nil }

// Refused counts frames that the kernel took out of the queue but could not hand over
// (EINVAL: no virtio header says what they are). Any goroutine may call it.
func (r *Reader) Refused() uint64 { return r.refused.Load() }

// Read takes up to len(bufs) frames, each [virtio header | frame] into one buffer, in
// the order in which they arrived, and sets n[i] to the bytes in bufs[i]. It stops when
// it finds the queue empty: fewer frames than buffers, or 0 and no error, mean just
// that, and a frame that came since raises a new edge for epoll.
//
// Each buffer should have [ReadRoom]: Linux cuts a longer frame without a word. It is
// memory outside of Go's heap, or on it; it must not be used by anybody else during
// the call. What is in the buffers past the frames taken is undefined.
//
// One buffer is read with one plain read(2); more, partly in batches, whose size goes
// by how many frames came in a row lately. When a frame comes in the middle of a batch,
// after the queue was seen empty, it is moved down to the first free buffer. Read does
// not allocate.
//
// With an error the first count frames are good. [ErrLinkGone] says that the link was
// deleted; no other error is to be expected of proper buffers.
func (r *Reader) Read(bufs [][]byte, n []int) (count int, err error) {
	if len(n) < len(bufs) {
		return 0, fmt.Errorf("read frames: %w: %d buffers, %d lengths", ErrBuffers, len(bufs), len(n))
	}
	refused := 0
	for count < len(bufs) {
		// The first frame comes by itself: that the queue is empty, which is how most
		// calls end, is found out for the price of one plain read.
		got, err := r.readOne(bufs[count], &n[count])
		if k := r.size(len(bufs) - count - 1); err == nil && got.frames == 1 && k > 0 {
			got, err = r.readBatch(bufs[count+1:count+1+k], n[count+1:count+1+k])
			got.frames++
		}
		r.note(got)
		count += got.frames
		if refused += got.refused; refused > maxRefused && err == nil {
			err = unix.EINVAL
		}
		if err != nil {
			return count, fmt.Errorf("read frames: %w", err)
		}
		if got.empty {
			break
		}
	}
	return count, nil
}

// size is how many frames to ask for at once when there is room for rest of them, 0
// for none. Each read that finds nothing costs as much as a plain one, so it goes by
// half of what came in a row the last time, or until now.
func (r *Reader) size(rest int) int {
	if r.ring == nil {
		return 0
	}
	k := min(rest, r.ring.depth(), max(r.expect, r.run/2))
	if k < worthRing {
		return 0
	}
	return k
}

// note keeps count of how many frames come in a row.
func (r *Reader) note(b batch) {
	r.run = min(r.run+b.frames, 2*maxDepth)
	if b.empty {
		r.expect, r.run = r.run/2, 0
	}
}

// batch is the outcome of one or more reads.
type batch struct {
	frames  int
	refused int
	empty   bool // the queue was seen empty
}

// readOne reads into one buffer.
//
// RawSyscall: a read of a non-blocking queue takes one to six microseconds and never
// sleeps; see uring.submit.
func (r *Reader) readOne(buf []byte, n *int) (batch, error) {
	for {
		got, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(r.fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)))
		if errno == unix.EINTR {
			continue
		}
		var b batch
		res := int(got)
		if errno != 0 {
			res = -int(errno)
		}
		if err := r.judge(res, &b); err != nil || b.frames == 0 {
			return b, err
		}
		*n = res
		return b, nil
	}
}

// readBatch reads into all of bufs with one system call.
func (r *Reader) readBatch(bufs [][]byte, n []int) (batch, error) {
	for i, buf := range bufs {
		r.pins[i] = unsafe.SliceData(buf)
		r.ring.put(i, unsafe.Pointer(r.pins[i]), len(buf))
	}
	done, err := r.ring.submit(len(bufs))
	clear(r.pins[:len(bufs)])
	if err != nil {
		return batch{}, err
	}
	b, err := r.collect(bufs, n, r.ring.results[:done])
	if done < len(bufs) && !r.ring.usable() {
		r.queue.lose(r.ring)
		r.ring = nil
	}
	return b, err
}

// collect makes the frames of a batch contiguous. A batch does not end at the first
// EAGAIN, so a frame that came after it lies in a buffer further up.
func (r *Reader) collect(bufs [][]byte, n []int, results []int32) (batch, error) {
	var b batch
	for i, res := range results {
		at := b.frames
		if err := r.judge(int(res), &b); err != nil {
			return b, err
		}
		if b.frames == at {
			continue
		}
		n[at] = int(res)
		if at != i {
			n[at] = copy(bufs[at], bufs[i][:res])
		}
	}
	return b, nil
}

// judge adds the outcome of one read, bytes or a negative errno, to b.
func (r *Reader) judge(res int, b *batch) error {
	switch {
	case res > 0:
		b.frames++
	case res == 0:
		return fmt.Errorf("%w: a buffer is empty", ErrBuffers)
	case res == -int(unix.EAGAIN):
		b.empty = true
	case res == -int(unix.EINVAL):
		b.refused++
		r.refused.Add(1)
	case res == -int(unix.EBADFD):
		return ErrLinkGone
	case res != -int(unix.EINTR):
		return unix.Errno(-res)
	}
	return nil
}
