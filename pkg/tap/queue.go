package tap

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// MaxQueues is the largest number of worker queues: the kernel's 256 (MAX_TAP_QUEUES
// of drivers/net/tun.c) less the keeper queue.
const MaxQueues = 255

// Queue is one worker queue of a [Device].
type Queue struct {
	device *Device
	fd     int
	rings  []*uring // of this queue's readers and writers; guarded by device.mu
	plain  [2]plain // of its reader and its writer
	closed bool     // guarded by device.mu
}

// plain is why a reader or a writer that wanted a ring does without; nil: it has one, or wants
// none. Its owner stores it in the middle of its work, where a lock has no place.
type plain struct{ why atomic.Pointer[error] }

func (p *plain) because(err error) {
	if err == nil {
		p.why.Store(nil)
		return
	}
	p.why.Store(&err)
}

// plainly is the plain of the queue's reader or writer, by what it does.
func (q *Queue) plainly(opcode uint8) *plain {
	if opcode == opRead {
		return &q.plain[0]
	}
	return &q.plain[1]
}

// lose notes that a ring of the queue was refused for good while it was in use.
func (q *Queue) lose(ring *uring) {
	q.plainly(ring.opcode).because(fmt.Errorf("enter io_uring: %w", ring.refused))
}

// SetQueues opens or closes worker queues so that exactly n are attached, and returns
// them all. Queues that stay keep their frames and descriptors; surplus ones are closed
// from the end, and what waits in them is lost (the goroutines that work on them must
// have stopped). On an error the queues are those from before the call, but for a
// queue that failed to close, which is gone. n over [MaxQueues] is [ErrSetting]. To open
// one for a link that was moved to another network namespace takes CAP_SYS_ADMIN: else it is
// [ErrElsewhere].
//
// Linux spreads flows over the attached queues, and sends a flow's frames to the queue
// through which frames of that flow came in.
func (d *Device) SetQueues(n int) ([]*Queue, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, ErrClosed
	}
	if n < 0 || n > MaxQueues {
		return d.list(), fmt.Errorf("set queues: %w: %d, want 0 to %d", ErrSetting, n, MaxQueues)
	}
	before := len(d.queues)
	for len(d.queues) < n {
		q, err := d.openQueue()
		if err != nil {
			err = errors.Join(err, d.closeFrom(before), d.applyCarrier())
			return d.list(), fmt.Errorf("set queues: %w", err)
		}
		d.queues = append(d.queues, q)
	}
	if err := errors.Join(d.closeFrom(n), d.applyCarrier()); err != nil {
		return d.list(), fmt.Errorf("set queues: %w", err)
	}
	return d.list(), nil
}

func (d *Device) list() []*Queue { return slices.Clone(d.queues) }

// closeFrom closes the queues from number n on, the last first: the kernel moves its
// last queue into the place of one that goes, so the others keep their numbers.
func (d *Device) closeFrom(n int) error {
	var errs []error
	for i := len(d.queues) - 1; i >= n; i-- {
		errs = append(errs, d.queues[i].closeDescriptor())
		d.queues = d.queues[:i]
	}
	return errors.Join(errs...)
}

// openQueue attaches one more queue. The link can be renamed between the question for
// its name and the answer's use; then water joins another link, or makes one. Either
// shows afterwards, and closing the queue undoes it.
func (d *Device) openQueue() (*Queue, error) {
	name, _, err := queueInfo(d.keeper)
	if err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	fd := -1
	// The link's owner needs no privileges for it; but that may be another user, who ran
	// the process that made the link.
	if _, err := d.look(); err != nil && !errors.Is(err, ErrElsewhere) {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	err = d.inside(func() (err error) {
		fd, err = openWater(name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open queue of link %q: %w", name, err)
	}
	if err := d.checkOwn(fd); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open queue of link %q: %w", name, err)
	}
	return &Queue{device: d, fd: fd}, nil
}

// checkOwn checks that fd is a worker's queue of this device's link.
func (d *Device) checkOwn(fd int) error {
	joined, err := checkQueue(fd, false)
	if err != nil {
		return err
	}
	name, _, err := queueInfo(d.keeper)
	if err != nil {
		return err
	}
	if joined != name {
		return fmt.Errorf("%w: it joined link %q, not %q", ErrQueue, joined, name)
	}
	return nil
}

// FD is the queue's descriptor: non-blocking and for polling only (EPOLLIN: a frame
// waits). It is not known to Go's netpoller, and stays the queue's own. It is -1 after
// Close.
func (q *Queue) FD() int {
	q.device.mu.Lock()
	defer q.device.mu.Unlock()
	return q.fd
}

// Close closes the queue; frames that wait in it are lost. Its reader's and writer's
// goroutines must have stopped. A second Close does nothing.
func (q *Queue) Close() error {
	d := q.device
	d.mu.Lock()
	defer d.mu.Unlock()
	if q.closed {
		return nil
	}
	d.queues = slices.DeleteFunc(d.queues, func(other *Queue) bool { return other == q })
	return errors.Join(q.closeDescriptor(), d.applyCarrier())
}

// newRing makes a ring on the queue, or none when the device uses none or one cannot be
// had just now, for want of descriptors or memory or because the kernel refuses it by now:
// frames flow without it, and [Device.UringError] says why. What was refused before is tried
// again with the first ring of a queue.
func (q *Queue) newRing(opcode uint8, depth int) (int, *uring, error) {
	d := q.device
	d.mu.Lock()
	defer d.mu.Unlock()
	if q.closed {
		return -1, nil, ErrClosed
	}
	why := q.plainly(opcode)
	why.because(nil)
	if depth == 1 {
		return q.fd, nil, nil
	}
	if d.uringErr != nil && len(q.rings) == 0 {
		d.uringErr = d.tryUring(d.keeper)
	}
	if d.uringErr != nil {
		return q.fd, nil, nil
	}
	ring, err := d.newUring(opcode, q.fd, depth)
	if err != nil {
		why.because(err)
		return q.fd, nil, nil
	}
	q.rings = append(q.rings, ring)
	return q.fd, ring, nil
}

// endRing closes a ring of the queue, unless the queue did.
func (q *Queue) endRing(ring *uring) error {
	q.device.mu.Lock()
	defer q.device.mu.Unlock()
	i := slices.Index(q.rings, ring)
	if i < 0 {
		return nil
	}
	q.rings = slices.Delete(q.rings, i, i+1)
	return ring.close()
}

// closeDescriptor closes the rings first: a ring holds the queue's open file, so the
// queue would stay attached, and the link alive, until the ring lets go.
func (q *Queue) closeDescriptor() error {
	if q.closed {
		return nil
	}
	q.closed = true
	var errs []error
	for _, r := range q.rings {
		errs = append(errs, r.close())
	}
	q.rings = nil
	if err := unix.Close(q.fd); err != nil {
		errs = append(errs, fmt.Errorf("close queue: %w", err))
	}
	q.fd = -1
	return errors.Join(errs...)
}
