package netfront

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readiness is a set of what a poller waits for.
type readiness uint32

const (
	readyTAP readiness = 1 << iota
	readyPort
	readyWake
	readyTimeout
)

// poller parks a worker until one of its descriptors is readable. The descriptors
// are in an epoll instance of its own, and that instance is parked in Go's
// netpoller, so that a waiting worker holds no thread. (Locking a thread or spinning
// instead was measured to be slower on two processors.)
type poller struct {
	file   *os.File
	conn   syscall.RawConn
	wakeFD int
	events [4]unix.EpollEvent
	ready  readiness
	check  func(fd uintptr) bool // made once, so that waiting allocates nothing
	look   func(fd uintptr)

	waking sync.Mutex // held while wakeFD is written to by others, or closed
	closed bool
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	// os.NewFile puts a descriptor into the netpoller only if it is non-blocking.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		unix.Close(wake)
		return nil, fmt.Errorf("set epoll instance non-blocking: %w", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "worker epoll"), wakeFD: wake}
	if p.conn, err = p.file.SyscallConn(); err == nil {
		err = p.add(wake, readyWake, 0)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("set up worker epoll: %w", err)
	}
	p.check = func(fd uintptr) bool {
		for {
			n, err := readyNow(fd, p.events[:])
			if err == unix.EINTR {
				continue
			}
			for i := range max(n, 0) {
				p.ready |= readiness(p.events[i].Fd)
			}
			return n != 0
		}
	}
	p.look = func(fd uintptr) { p.check(fd) }
	return p, nil
}

// add waits for fd, too, and reports it as what. The bits go into the event's data,
// in the place of a descriptor number.
func (p *poller) add(fd int, what readiness, flags uint32) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN | flags, Fd: int32(what)}
	var err error
	if cerr := p.conn.Control(func(ep uintptr) { err = unix.EpollCtl(int(ep), unix.EPOLL_CTL_ADD, fd, &e) }); cerr != nil {
		return cerr
	}
	return err
}

// wait parks until something is ready, for at most timeout if that is above zero.
func (p *poller) wait(timeout time.Duration) (readiness, error) {
	p.ready = 0
	if timeout > 0 {
		if err := p.file.SetReadDeadline(time.Now().Add(timeout)); err != nil {
			return 0, fmt.Errorf("set deadline: %w", err)
		}
		defer p.file.SetReadDeadline(time.Time{})
	}
	err := p.conn.Read(p.check)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return readyTimeout, nil
	}
	if err != nil {
		return 0, fmt.Errorf("wait: %w", err)
	}
	return p.drained(), nil
}

// peek is wait that does not wait.
func (p *poller) peek() (readiness, error) {
	p.ready = 0
	err := p.conn.Control(p.look)
	if err != nil {
		return 0, fmt.Errorf("look at descriptors: %w", err)
	}
	return p.drained(), nil
}

// drained is what is ready, after the wake-up was taken: the next one is a new one.
func (p *poller) drained() readiness {
	if p.ready&readyWake != 0 {
		var b [8]byte
		unix.Read(p.wakeFD, b[:])
	}
	return p.ready
}

// wake makes wait return. Any goroutine may call it; after close it does nothing. Who asks
// a worker for something has it from a list that its connection may have left since, and
// by then the descriptor's number can be that of another file.
func (p *poller) wake() {
	p.waking.Lock()
	defer p.waking.Unlock()
	if p.closed {
		return
	}
	var b = [8]byte{1}
	unix.Write(p.wakeFD, b[:]) // fails only at 2^64-2 wakes that nobody took
}

func (p *poller) close() {
	p.waking.Lock()
	defer p.waking.Unlock()
	p.closed = true
	p.file.Close()
	unix.Close(p.wakeFD)
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
