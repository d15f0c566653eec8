// Package privilege lets a process have CAP_NET_ADMIN only in the moments in which it needs
// the capability. [Drop] takes it out of effect, and returns a function that has it in effect
// for one call.
//
// That does not protect from an attacker who runs code of their own in the process: such code
// can raise a permitted capability. It protects from this program's own mistakes. If a path
// that was not meant to change a link is reached with another's name or descriptor, the kernel
// refuses the change.
package privilege

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Call calls f with CAP_NET_ADMIN in effect for f's own thread, if this process has the
// capability. A netlink socket keeps the rights with which it was opened. f must not give its
// work to other goroutines, and must not call Call.
type Call func(f func() error) error

// plain is the Call if nothing was dropped.
func plain(f func() error) error { return f() }

// netAdmin is the capability in the first of the two words of a set.
const netAdmin = uint32(1) << unix.CAP_NET_ADMIN

// Drop takes every capability out of effect, on every present and future thread of the
// process. It gives all but CAP_NET_ADMIN up for good. It takes nothing from root: root uses
// files of other users by its capabilities, and a daemon that was started by hand as root is
// meant to have them.
//
// The Call can always be used. After an error nothing was dropped. The error is
// [errors.ErrUnsupported] in a binary with cgo, since Go does not know all its threads.
func Drop() (Call, error) {
	if os.Geteuid() == 0 {
		return plain, nil
	}
	hdr := header()
	var now [2]unix.CapUserData
	if err := unix.Capget(&hdr, &now[0]); err != nil {
		return plain, fmt.Errorf("read capabilities: %w", err)
	}
	keep := now[0].Permitted & netAdmin
	if now == sets(0, 0) {
		return plain, nil
	}
	// It asks every present thread. A new thread inherits from the one that makes it, and Go
	// never makes one from a thread that a goroutine is locked to.
	data := sets(0, keep)
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])), 0); errno != 0 {
		return plain, fmt.Errorf("put capabilities out of effect: %w", errno)
	}
	if keep == 0 {
		return plain, nil
	}
	return raised, nil
}

func raised(f func() error) (err error) {
	runtime.LockOSThread()
	if err := setThread(netAdmin); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("bring CAP_NET_ADMIN into effect: %w", err)
	}
	defer func() {
		if lowered := setThread(0); lowered != nil {
			// The thread stays locked, and ends with its goroutine.
			err = errors.Join(err, fmt.Errorf("put CAP_NET_ADMIN out of effect: %w", lowered))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// setThread sets the effective capabilities of the calling thread.
func setThread(effective uint32) error {
	hdr, data := header(), sets(effective, netAdmin)
	return unix.Capset(&hdr, &data[0])
}

func header() unix.CapUserHeader {
	return unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
}

// sets are the sets of a process in the words of capset(2). Children inherit none of it.
func sets(effective, permitted uint32) [2]unix.CapUserData {
	return [2]unix.CapUserData{{Effective: effective, Permitted: permitted}}
}
