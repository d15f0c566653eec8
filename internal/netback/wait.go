package netback

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ready is a set of what a waiter waits for.
type ready uint32

const (
	readyWake ready = 1 << iota
	readyEvent
	readyPort
	readyTimeout
)

// waiter parks a worker until one of its descriptors becomes readable. They are in
// an epoll instance of the worker's own, edge-triggered, so that a source which the
// worker cannot use at the moment (frames, but no slots to put them in) need not be
// taken out; the worker drains a source before it relies on it again. The instance
// itself is parked in Go's netpoller: a waiting worker holds no thread.
type waiter struct {
	file   *os.File
	conn   syscall.RawConn
	wakeFD int
	events [4]unix.EpollEvent
	ready  ready
	poll   func(fd uintptr) bool // made once, so that waiting allocates nothing
	timed  bool                  // a deadline is set
}

func newWaiter() (*waiter, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	// os.NewFile hands only a non-blocking descriptor to the netpoller.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make epoll instance non-blocking: %w", err)
	}
	w := &waiter{file: os.NewFile(uintptr(fd), "netback worker"), wakeFD: -1}
	if w.conn, err = w.file.SyscallConn(); err != nil {
		w.close()
		return nil, fmt.Errorf("park epoll instance: %w", err)
	}
	if w.wakeFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		w.close()
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	w.poll = w.collect
	if err := w.add(w.wakeFD, readyWake); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// add makes wait report fd as what.
func (w *waiter) add(fd int, what ready) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(what)}
	var err error
	cerr := w.conn.Control(func(ep uintptr) { err = unix.EpollCtl(int(ep), unix.EPOLL_CTL_ADD, fd, &event) })
	if err = errors.Join(err, cerr); err != nil {
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return nil
}

func (w *waiter) collect(fd uintptr) bool {
	for {
		n, err := readyNow(fd, w.events[:])
		if err == unix.EINTR {
			continue
		}
		for i := range max(n, 0) {
			w.ready |= ready(w.events[i].Fd)
		}
		return n != 0 // an error ends the wait, too
	}
}

// wait parks until something is ready, at most for timeout if that is above zero.
func (w *waiter) wait(timeout time.Duration) (ready, error) {
	w.ready = 0
	if timeout > 0 || w.timed {
		var at time.Time
		if timeout > 0 {
			at = time.Now().Add(timeout)
		}
		w.timed = timeout > 0
		if err := w.file.SetReadDeadline(at); err != nil {
			return 0, fmt.Errorf("set deadline: %w", err)
		}
	}
	if err := w.conn.Read(w.poll); errors.Is(err, os.ErrDeadlineExceeded) {
		return readyTimeout, nil
	} else if err != nil {
		return 0, fmt.Errorf("wait: %w", err)
	}
	if w.ready&readyWake != 0 {
		var b [8]byte
		unix.Read(w.wakeFD, b[:]) // drained: the next wake is a new one
	}
	return w.ready, nil
}

// wake makes the current or the next wait return. Any goroutine may call it before
// close.
func (w *waiter) wake() {
	one := [8]byte{1}
	unix.Write(w.wakeFD, one[:]) // fails only after 2^64-2 wakes that nobody took
}

func (w *waiter) close() {
	w.file.Close()
	if w.wakeFD >= 0 {
		unix.Close(w.wakeFD)
	}
}

// readyNow is epoll_wait with no time-out. It never sleeps, so it goes to the kernel
// without a word to Go's scheduler (RawSyscall): announcing it wakes the runtime's
// monitor thread, which costs more CPU time than the call does.
func readyNow(epoll uintptr, events []unix.EpollEvent) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, epoll, uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
