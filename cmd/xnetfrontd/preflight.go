package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// system is what is looked at of the machine before a vif is touched. Tests put other
// directories in its place.
type system struct {
	sysfs string // /sys
	dev   string // /dev
	udev  string // /run/udev
	proc  string // /proc
	boot  string // /boot
	lib   string // /lib
	run   string // /run
	// release is the kernel's, as uname -r prints it; empty where nobody asked.
	release string
}

func newSystem() system {
	s := system{sysfs: "/sys", dev: "/dev", udev: "/run/udev", proc: "/proc", boot: "/boot", lib: "/lib", run: "/run"}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		s.release = unix.ByteSliceToString(name.Release[:])
	}
	return s
}

// hasUdev tells whether udev loads modules here.
func (s system) hasUdev() bool {
	_, err := os.Stat(s.udev + "/control")
	return err == nil
}

// oldSystemd says that the systemd which has started this process does not know all
// of the unit's options. The environment tells: $SYSTEMD_EXEC_PID came with version 248,
// as did the newest of them, and $INVOCATION_ID long before (systemd.exec(5)).
func oldSystemd(getenv func(string) string) string {
	if getenv("INVOCATION_ID") == "" || getenv("SYSTEMD_EXEC_PID") != "" {
		return ""
	}
	return "systemd: older than 248, it does not know the whole sandbox of the unit"
}

// check says what the machine or this process lacks for a TAP.
func (s system) check() error {
	if err := s.checkKernel(); err != nil {
		return err
	}
	if err := s.checkTUN(); err != nil {
		return err
	}
	return checkNetAdmin()
}

// checkTUN says what keeps a TAP from being made here.
func (s system) checkTUN() error {
	path := s.dev + "/net/tun"
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: load the TUN/TAP driver with `modprobe tun`; in a container, pass the device in (--device %s)", err, path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run as root, or let this user read and write it with `chmod 0666 %s`, which is how udev makes it", err, path)
	case err != nil:
		return err
	}
	return f.Close()
}

// checkNetAdmin says whether this process may make a link in its network namespace. What
// is permitted counts: package privilege brings it into effect.
func checkNetAdmin() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // 64 capabilities in two words
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if data[0].Permitted&(1<<unix.CAP_NET_ADMIN) == 0 {
		return errors.New("no permission to make a TAP: run as root, or with the capability CAP_NET_ADMIN")
	}
	return nil
}

// share keeps a vif from changing hands between the kernel and the daemons until release
// is called, see [kernelBus.reserve]. It fails with ctx while that is going on.
func (s system) share(ctx context.Context, devid int) (release func(), err error) {
	release, err = lockDirectory(ctx, fmt.Sprintf("%s/bus/xen/devices/vif-%d", s.sysfs, devid), unix.LOCK_SH)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, errors.New("it changes hands with the kernel, by `xnetfrontd prepare` or `release`: it is served after that")
	}
	return release, err
}

// checkOwner fails when a kernel driver has the vif: two frontends on one vif would
// overwrite each other's rings.
func (s system) checkOwner(devid int) error {
	target, err := os.Readlink(fmt.Sprintf("%s/bus/xen/devices/vif-%d/driver", s.sysfs, devid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the driver of vif-%d: %w", devid, err)
	}
	driver := filepath.Base(target)
	return fmt.Errorf("the kernel's driver %q (xen-netfront) has it: take it away with `xnetfrontd prepare --vif %d`, and keep it away with `blacklist xen-netfront` in /etc/modprobe.d",
		driver, devid)
}
