package tap

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Writer hands frames to Linux, as received, through one queue. It is owned by one
// goroutine and ends with its queue.
type Writer struct {
	queue  *Queue
	opened *uring // to be closed, whether it is used or not; may be nil
	fd     int
	ring   *uring        // nil: plain writes
	pins   []*unix.Iovec // as Reader.pins
}

// NewWriter makes a writer whose batches have up to depth frames (at most 64; longer
// Writes take several). A queue has one writer at a time. It fails only on a closed
// queue.
func (q *Queue) NewWriter(depth int) (*Writer, error) {
	fd, ring, err := q.newRing(opWritev, depth)
	if err != nil {
		return nil, fmt.Errorf("create writer: %w", err)
	}
	w := &Writer{queue: q, opened: ring, fd: fd, ring: ring}
	if ring != nil {
		w.pins = make([]*unix.Iovec, ring.depth())
	}
	return w, nil
}

// Close ends the writer and leaves the queue as it is. The queue's own Close does it
// too. A second Close does nothing.
func (w *Writer) Close() error { return w.queue.endRing(w.opened) }

// Batched says whether the writer uses io_uring. It belongs to the writer's goroutine.
func (w *Writer) Batched() bool { return w.ring != nil }

// Write hands in frames in their order. A frame is a gather list of at most 1024
// pieces that begins with the virtio header. It sets res[i] to the bytes taken of frame
// i, which is all of them, or to a negative errno. A frame that was refused is lost and
// the next one is tried:
//
//	EIO     the link is down
//	EINVAL  Linux does not believe the virtio header, or the frame is too short
//	EAGAIN, ENOMEM, ENOBUFS  no memory
//	EBADFD  the link was deleted
//
// The pieces, and the gather lists themselves, are memory outside of Go's heap or on
// it; what they point to must stay reachable and unchanged until Write returns. A few
// frames are written with a plain writev(2) each; more, as a batch. Write does not
// allocate.
//
// An error means that the call was wrong ([ErrBuffers], nothing was written) or that
// the batch was lost in the kernel, which is not to be expected.
func (w *Writer) Write(frames [][]unix.Iovec, res []int32) error {
	if len(res) < len(frames) {
		return fmt.Errorf("write frames: %w: %d frames, %d results", ErrBuffers, len(frames), len(res))
	}
	for len(frames) > 0 {
		done := 1
		if len(frames) < worthRing || w.ring == nil {
			res[0] = w.writeOne(frames[0])
		} else {
			var err error
			if done, err = w.writeBatch(frames[:min(len(frames), w.ring.depth())], res); err != nil {
				return fmt.Errorf("write frames: %w", err)
			}
		}
		frames, res = frames[done:], res[done:]
	}
	return nil
}

// writeOne writes one frame.
//
// RawSyscall: the receive path of the kernel, up to the socket, runs inside the write.
// That is a few microseconds, and much longer when the soft interrupts of others are
// worked off at its end; but it is all computing on this CPU, and nothing else could
// use the P; see uring.submit.
func (w *Writer) writeOne(frame []unix.Iovec) int32 {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(w.fd), uintptr(unsafe.Pointer(unsafe.SliceData(frame))), uintptr(len(frame)))
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return -int32(errno)
		case n == 0: // writev does not even ask the TAP about an empty gather list
			return -int32(unix.EINVAL)
		default:
			return int32(n)
		}
	}
}

// writeBatch writes frames with one system call and returns how many were tried: all,
// unless the ring refused; then one at least, as that one was written plainly.
func (w *Writer) writeBatch(frames [][]unix.Iovec, res []int32) (int, error) {
	for i, frame := range frames {
		w.pins[i] = unsafe.SliceData(frame)
		w.ring.put(i, unsafe.Pointer(w.pins[i]), len(frame))
	}
	done, err := w.ring.submit(len(frames))
	clear(w.pins[:len(frames)])
	if err != nil {
		return done, err
	}
	copy(res, w.ring.results[:done])
	if done < len(frames) {
		res[done] = w.writeOne(frames[done])
		if !w.ring.usable() {
			w.queue.lose(w.ring)
			w.ring = nil
		}
		done++
	}
	return done, nil
}
