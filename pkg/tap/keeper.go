package tap

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkFlags are what TUNGETIFF must say of the link, through any of its queues
// (include/uapi/linux/if_tun.h). IFF_NO_PI shares its bit with IFF_NOFILTER there, so
// it cannot be checked; the header size tells.
const linkFlags = unix.IFF_TAP | unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR

// iffBackpressure is IFF_BACKPRESSURE of include/uapi/linux/if_tun.h (Linux 7.3): a queue
// that is full stops the qdisc in front of it, where others drop. It is the link's, and
// counts in the TUNSETIFF that makes it alone.
const iffBackpressure = 0x0080

// nameWait is how long the name of a link that is on its way out is waited for. A
// killed process's io_uring keeps its TAP for some milliseconds after its death.
const (
	nameWait  = 250 * time.Millisecond
	nameRetry = 10 * time.Millisecond
)

// openKeeper makes the link and returns its first queue, still attached, and its index.
// IFF_TUN_EXCL (part of no default for multi-queue links) makes a taken name an error:
// without it, Linux would join somebody else's TAP.
func openKeeper(nl *netlink.Handle, name string) (fd, index int, err error) {
	flags := netlink.TUNTAP_MULTI_QUEUE_DEFAULTS | netlink.TUNTAP_VNET_HDR | netlink.TUNTAP_TUN_EXCL | unix.IFF_NO_CARRIER
	if canPushBack() {
		flags |= iffBackpressure
	}
	deadline := time.Now().Add(nameWait)
	for {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		link := &netlink.Tuntap{
			LinkAttrs:  attrs,
			Mode:       netlink.TUNTAP_MODE_TAP,
			Flags:      flags,
			Queues:     1,
			NonPersist: true,
			// Whoever has this user and group may attach a queue without
			// CAP_NET_ADMIN; with neither set, anybody might.
			Owner: uint32(os.Geteuid()),
			Group: uint32(os.Getegid()),
		}
		if err := nl.LinkAdd(link); err != nil {
			// The library flattens the errno to text, so look who has the name.
			if _, lookup := nl.LinkByName(name); lookup != nil {
				return -1, 0, fmt.Errorf("create link %q: %w", name, err)
			}
			if time.Now().After(deadline) {
				return -1, 0, fmt.Errorf("create link: %w: %q", ErrNameTaken, name)
			}
			time.Sleep(nameRetry)
			continue
		}
		file := link.Fds[0]
		fd, err := takeDescriptor(file)
		if err == nil && link.Attrs().Index == 0 {
			err = errors.New("netlink does not know the new link's index")
		}
		if err = errors.Join(err, file.Close()); err != nil {
			if fd >= 0 {
				unix.Close(fd)
			}
			return -1, 0, fmt.Errorf("create link %q: %w", name, err)
		}
		return fd, link.Attrs().Index, nil
	}
}

// canPushBack says whether the kernel knows IFF_BACKPRESSURE; an older one ignores it in
// TUNSETIFF without a word.
func canPushBack() bool {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	features, err := unix.IoctlGetUint32(fd, unix.TUNGETFEATURES)
	return err == nil && features&iffBackpressure != 0
}

// takeDescriptor returns a descriptor of file's open file that belongs to the caller
// alone: closed on exec from its birth, and unknown to Go's netpoller, which would
// otherwise wake for every frame of a queue that nobody reads through it. The number
// inside file is seen through SyscallConn; Fd would make the open file blocking.
// The caller closes file.
func takeDescriptor(file *os.File) (int, error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("reach descriptor: %w", err)
	}
	fd, dupErr := -1, error(nil)
	err = conn.Control(func(raw uintptr) {
		fd, dupErr = unix.FcntlInt(raw, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err = errors.Join(err, dupErr); err != nil {
		return -1, fmt.Errorf("take descriptor: %w", err)
	}
	return fd, nil
}

// setHeader gives the link's frames the 12-byte virtio header with a fixed byte order
// (the legacy default is the machine's own). Both are the link's, not the queue's.
func setHeader(fd int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, VirtioHeaderSize); err != nil {
		return fmt.Errorf("set virtio header size: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return fmt.Errorf("set virtio header byte order: %w", err)
	}
	return nil
}

// pushesBack tells whether the link was made with IFF_BACKPRESSURE.
func pushesBack(fd int) (bool, error) {
	_, flags, err := queueInfo(fd)
	return flags&iffBackpressure != 0, err
}

// detachQueue takes a queue out of the link's service. The descriptor keeps the link
// alive and still works for everything that concerns the link as a whole.
func detachQueue(fd int) error {
	req, err := unix.NewIfreq("")
	if err != nil {
		return fmt.Errorf("detach keeper queue: %w", err)
	}
	req.SetUint16(unix.IFF_DETACH_QUEUE)
	if err := unix.IoctlIfreq(fd, unix.TUNSETQUEUE, req); err != nil {
		return fmt.Errorf("detach keeper queue: %w", err)
	}
	return nil
}

// queueInfo asks the kernel what a descriptor is a queue of: the link's name as it is
// now and TUNGETIFF's flags. EBADFD means that the link is gone.
func queueInfo(fd int) (name string, flags uint16, err error) {
	req, err := unix.NewIfreq("")
	if err != nil {
		return "", 0, fmt.Errorf("ask for the queue's link: %w", err)
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, req); err != nil {
		if errors.Is(err, unix.EBADFD) {
			err = ErrLinkGone
		}
		return "", 0, fmt.Errorf("ask for the queue's link: %w", err)
	}
	return req.Name(), req.Uint16(), nil
}

// checkQueue checks that fd is a queue of a link as this package makes them, and the
// keeper queue or a worker's, and returns the link's name.
func checkQueue(fd int, keeper bool) (string, error) {
	name, flags, err := queueInfo(fd)
	if err != nil {
		return "", err
	}
	if flags&linkFlags != linkFlags {
		return "", fmt.Errorf("%w: flags %#x of link %q lack some of %#x", ErrQueue, flags, name, linkFlags)
	}
	if detached := flags&unix.IFF_DETACH_QUEUE != 0; detached != keeper {
		return "", fmt.Errorf("%w: queue of link %q: detached is %t, want %t", ErrQueue, name, detached, keeper)
	}
	size, err := unix.IoctlGetInt(fd, unix.TUNGETVNETHDRSZ)
	if err != nil {
		return "", fmt.Errorf("get virtio header size: %w", err)
	}
	if size != VirtioHeaderSize {
		return "", fmt.Errorf("%w: virtio header of link %q is %d bytes, want %d", ErrQueue, name, size, VirtioHeaderSize)
	}
	return name, nil
}
