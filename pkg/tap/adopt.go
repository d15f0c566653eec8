package tap

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// KeeperFD is the keeper queue's descriptor, for handing the link to another process
// together with those of the queues. It stays the device's own.
func (d *Device) KeeperFD() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keeper
}

// QueueFDs are the descriptors of the worker queues, in their order, as KeeperFD is the
// keeper's.
func (d *Device) QueueFDs() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	fds := make([]int, len(d.queues))
	for i, q := range d.queues {
		fds[i] = q.fd
	}
	return fds
}

// Adopt takes over a link made by [Create], perhaps in another process, from its
// descriptors: the keeper queue's and those of its worker queues, in their order. No
// frame is lost and nothing of the link changes; its carrier stays what it is, and
// offloads what they are. The calling thread must be in the namespace in which the link was
// made; the link may be in another one meanwhile. On
// success the descriptors belong to the device; on an error they stay the caller's.
// A descriptor that is not what it should be is [ErrQueue].
func Adopt(cfg Config, keeper int, queues []int) (*Device, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d := emptyDevice(cfg)
	if err := d.adopt(cfg, keeper, queues); err != nil {
		return nil, fmt.Errorf("adopt link: %w", errors.Join(err, d.Close()))
	}
	d.keeper = keeper
	for _, fd := range queues {
		d.queues = append(d.queues, &Queue{device: d, fd: fd})
	}
	return d, nil
}

func (d *Device) adopt(cfg Config, keeper int, queues []int) error {
	name, err := checkQueue(keeper, true)
	if err != nil {
		return err
	}
	for i, fd := range queues {
		other, err := checkQueue(fd, false)
		if err == nil && other != name {
			err = fmt.Errorf("%w: it is of link %q, not %q", ErrQueue, other, name)
		}
		if err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
	}
	for _, fd := range append([]int{keeper}, queues...) {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("make queue non-blocking: %w", err)
		}
	}
	if d.pushes, err = pushesBack(keeper); err != nil {
		return err
	}
	if d.ns, err = currentNamespace(); err != nil {
		return err
	}
	if err := d.openNetlink(); err != nil {
		return err
	}
	d.keeper = keeper
	defer func() { d.keeper = -1 }() // the caller's until all has gone well
	l, err := d.look()
	if err != nil && !errors.Is(err, ErrElsewhere) {
		return err
	}
	if d.unset = l == nil; !d.unset {
		d.carrier = l.flags&unix.IFF_LOWER_UP != 0
	}
	// To try them would change them. Every kernel with multi-queue TAPs has these.
	d.accepted = OffloadCsum | OffloadTSO4 | OffloadTSO6
	d.uringErr = d.tryUring(keeper)
	return nil
}
