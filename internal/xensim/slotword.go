package xensim

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slotWord is the state of a port, which both of its ends change.
type slotWord struct{ *atomic.Uint64 }

// raise sets pending, unless the slot has another generation by now, and tells
// whether its reader must be woken: it was not pending, and is not masked.
func (w slotWord) raise(generation uint32) (wake bool) {
	for {
		s := w.Load()
		if s>>32 != uint64(generation) || s&slotPending != 0 {
			return false
		}
		if w.CompareAndSwap(s, s|slotPending) {
			return s&slotMasked == 0
		}
	}
}

// take makes a pending, unmasked slot masked and not pending, and tells whether it
// was one.
func (w slotWord) take() bool {
	for {
		s := w.Load()
		if s&slotPending == 0 || s&slotMasked != 0 {
			return false
		}
		if w.CompareAndSwap(s, s&^slotPending|slotMasked) {
			return true
		}
	}
}

// ready tells whether take would take.
func (w slotWord) ready() bool {
	return w.Load()&(slotPending|slotMasked) == slotPending
}

// unmask clears masked and tells whether the slot is pending, so that its reader
// must be woken.
func (w slotWord) unmask() (pending bool) {
	for {
		s := w.Load()
		if s&slotMasked == 0 {
			return false
		}
		if w.CompareAndSwap(s, s&^slotMasked) {
			return s&slotPending != 0
		}
	}
}

// wake makes an eventfd readable. It never blocks: at its highest value the eventfd
// refuses (EAGAIN), and is readable anyway.
func wake(fd int) error {
	one := [8]byte{1} // in the byte order of every machine that both Xen and Go run on
	// RawSyscall, here and in EventFile.Read: the fast path, which never sleeps.
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one[0])), 8)
	if errno != 0 && errno != unix.EAGAIN {
		return errno
	}
	return nil
}
