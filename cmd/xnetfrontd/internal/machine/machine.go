package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// System is where a machine keeps what this package reads. Tests put other directories in
// its place.
type System struct {
	Sysfs string // /sys
	Dev   string // /dev
	Udev  string // /run/udev
	Proc  string // /proc
	Boot  string // /boot
	Lib   string // /lib
	Run   string // /run
	// Release is the kernel's, as uname -r prints it. It is empty where it is not known.
	Release string
}

// Local is the machine that this process runs on.
func Local() System {
	s := System{Sysfs: "/sys", Dev: "/dev", Udev: "/run/udev", Proc: "/proc", Boot: "/boot", Lib: "/lib", Run: "/run"}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		s.Release = unix.ByteSliceToString(name.Release[:])
	}
	return s
}

// HasUdev tells whether udev loads modules on this machine.
func (s System) HasUdev() bool {
	_, err := os.Stat(s.Udev + "/control")
	return err == nil
}

// OldSystemd returns a line about the systemd that started this process, if that systemd
// does not know all options of the unit. The newest of these options came with version
// 248, as $SYSTEMD_EXEC_PID did; $INVOCATION_ID is older (systemd.exec(5)).
func OldSystemd(getenv func(string) string) string {
	if getenv("INVOCATION_ID") == "" || getenv("SYSTEMD_EXEC_PID") != "" {
		return ""
	}
	return "systemd: older than 248, it does not know the whole sandbox of the unit"
}

// Check fails with what the machine or this process lacks for a TAP.
func (s System) Check() error {
	if err := s.CheckKernel(); err != nil {
		return err
	}
	if err := s.CheckTUN(); err != nil {
		return err
	}
	return checkNetAdmin()
}

// CheckTUN fails with what keeps a TAP from being made here.
func (s System) CheckTUN() error {
	path := s.Dev + "/net/tun"
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

// checkNetAdmin fails unless this process may make a link in its network namespace. The
// permitted capabilities count: package privilege brings them into effect.
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
