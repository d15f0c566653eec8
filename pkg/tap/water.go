package tap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

// tunDevice is the device behind every queue, as /proc/self/fd shows it.
const tunDevice = "/dev/net/tun"

// openWater attaches a queue to the link through water and returns its descriptor:
// non-blocking, closed on exec. What water gets wrong is fenced here:
//
//   - It opens without O_CLOEXEC. Its descriptor lives only inside this function,
//     under the lock that keeps this process from forking meanwhile.
//   - It leaks the descriptor of an open that fails. The same lock, held alone, makes
//     sure that the only descriptor which can appear here and look like the leaked
//     one is the leaked one.
//   - It cuts long names. Ours come from the kernel, and are checked all the same.
//   - It clears persistence. The keeper holds the link, which never is persistent.
//   - It asks for no virtio header. A queue that joins others inherits the link's;
//     the caller checks.
func openWater(name string) (int, error) {
	if err := CheckName(name, false); err != nil {
		return -1, err
	}
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	before, err := tunDescriptors()
	if err != nil {
		return -1, err
	}
	tap, err := water.New(water.Config{
		DeviceType:             water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: name, MultiQueue: true},
	})
	if err != nil {
		return -1, errors.Join(err, closeLeaked(before))
	}
	file, ok := tap.ReadWriteCloser.(*os.File)
	if !ok {
		return -1, errors.Join(fmt.Errorf("water holds a %T, not a file", tap.ReadWriteCloser), tap.Close())
	}
	fd, err := takeDescriptor(file)
	if err = errors.Join(err, file.Close()); err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, err
	}
	return fd, nil
}

// tunDescriptors are this process's descriptors of /dev/net/tun.
func tunDescriptors() (map[int]bool, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list open descriptors: %w", err)
	}
	fds := map[int]bool{}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && target == tunDevice {
			fds[fd] = true
		}
	}
	return fds, nil
}

// closeLeaked closes what a failed water.New left open: a descriptor of /dev/net/tun
// that was not there before, is not closed on exec (as everybody else's are) and is not
// attached to any link.
func closeLeaked(before map[int]bool) error {
	now, err := tunDescriptors()
	if err != nil {
		return err
	}
	for fd := range now {
		if before[fd] {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue
		}
		if _, _, err := queueInfo(fd); !errors.Is(err, ErrLinkGone) {
			continue
		}
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("close the descriptor of a failed open: %w", err)
		}
	}
	return nil
}
