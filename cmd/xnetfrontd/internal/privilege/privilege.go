// Package privilege lets a process have CAP_NET_ADMIN only in the moments in which it
// needs it: [Drop] puts it out of effect, and what Drop returns brings it back around
// one call.
//
// That is no protection from somebody who runs code of their own in the process: what
// is permitted can be raised. It is one from this program's own mistakes. A path that
// was not meant to change a link, reached with a name or a descriptor that somebody
// else chose, is refused by the kernel.
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

// Call calls f with CAP_NET_ADMIN in effect, for f's own thread alone, if this process
// has it. A socket's rights over netlink are those with which it was opened, too. f must
// not give its work to other goroutines, nor call Call.
type Call func(f func() error) error

// plain is Call where nothing was dropped.
func plain(f func() error) error { return f() }

// netAdmin is the capability in the first of the two words of a set.
const netAdmin = uint32(1) << unix.CAP_NET_ADMIN

// Drop takes every capability out of effect, on every thread of the process and on
// those that it will have, and gives up for good all but CAP_NET_ADMIN. Of root it takes
// nothing: that root may use files of other users hangs on capabilities, and whoever
// starts the daemon by hand as root means it.
//
// The Call can always be used. With an error nothing was dropped; it is
// [errors.ErrUnsupported] in a binary with cgo, whose threads Go does not all know.
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
	// It asks every thread that there is; a new one has what the one has that makes it,
	// which Go has never be a thread that a goroutine is locked to.
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

// setThread sets what is in effect for the calling thread.
func setThread(effective uint32) error {
	hdr, data := header(), sets(effective, netAdmin)
	return unix.Capset(&hdr, &data[0])
}

func header() unix.CapUserHeader {
	return unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
}

// sets are the sets of a process in the words of capset(2): none of it is for children.
func sets(effective, permitted uint32) [2]unix.CapUserData {
	return [2]unix.CapUserData{{Effective: effective, Permitted: permitted}}
}
