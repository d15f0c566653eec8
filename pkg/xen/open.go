//go:build linux

package xen

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// Modules of the kernel's that make the devices of [Open]. Neither has an alias by which
// udev would load it.
const (
	GntallocModule = "xen-gntalloc"
	EvtchnModule   = "xen-evtchn"
)

const (
	gntallocPath = "/dev/xen/gntalloc"
	evtchnPath   = "/dev/xen/evtchn"
)

// Open opens the devices by which Linux gives a process the hypervisor:
// /dev/xen/xenbus, /dev/xen/gntalloc and /dev/xen/evtchn. An error says which one is
// missing or forbidden and what helps; [fs.ErrNotExist] and [fs.ErrPermission] are
// in it.
func Open() (*Guest, error) {
	grants, err := openGntalloc(gntallocPath, gntallocLimit)
	if err != nil {
		return nil, err
	}
	events := eventDevice{path: evtchnPath}
	if err := events.check(); err != nil {
		return nil, errors.Join(err, grants.Close())
	}
	store, err := xenstore.Open()
	if err != nil {
		return nil, errors.Join(err, grants.Close())
	}
	return &Guest{Store: store, Grants: grants, Events: events}, nil
}

// openDevice opens a device of drivers/xen as a raw descriptor, non-blocking and
// closed on exec. Raw, since an os.File closes its descriptor when it is collected
// as garbage, and closing one of these at the wrong moment ends grants in use, or
// gives up event channels that must be kept after a save and restore of the guest.
func openDevice(path, module string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR {
			return -1, deviceError(path, module, err)
		}
	}
}

// deviceError adds the remedy to what kept a device from being opened.
func deviceError(path, module string, err error) error {
	err = &fs.PathError{Op: "open", Path: path, Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: not a Xen guest, or the module is not loaded (modprobe %s)", err, module)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run as root, or give this user's group read and write access to it (udev rule)", err)
	}
	return err
}

// duplicate is a second descriptor of the same open file.
func duplicate(fd int) (int, error) {
	if fd < 0 {
		return -1, fmt.Errorf("duplicate handle: %w", ErrClosed)
	}
	d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("duplicate handle: %w", err)
	}
	return d, nil
}

// adoptDescriptor checks that fd is open, and gives it the flag that it should have
// been received with. The open file is non-blocking already.
func adoptDescriptor(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	return err
}

// sameDevice checks that fd is an open file of the character device that stat
// describes: a descriptor that came from another process may be anything.
func sameDevice(fd int, stat func(*unix.Stat_t) error) error {
	var got, want unix.Stat_t
	if err := unix.Fstat(fd, &got); err != nil {
		return err
	}
	if err := stat(&want); err != nil {
		return err
	}
	if got.Mode&unix.S_IFMT != unix.S_IFCHR || got.Rdev != want.Rdev {
		return fmt.Errorf("descriptor %d is not of this device", fd)
	}
	return nil
}
