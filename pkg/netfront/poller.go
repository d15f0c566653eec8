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
	epoll  int // file's descriptor
	wakeFD int
	events [4]unix.EpollEvent
	armed  bool // a time-out was set

	waking sync.Mutex // held while wakeFD is written to by others, or closed
	closed bool
}

// turn is a worker's look at all that it has, knowing what has become ready: its work.
// It says what is next, and when it parks, for how long at most: 0 is for ever.
type turn func(ready readiness) (n next, pause time.Duration, err error)

// next is what comes after a turn.
type next int

const (
	nextPark  next = iota // a turn when something becomes ready, or has since this one was called
	nextLook              // a turn at once, with what is ready
	nextAgain             // a turn at once
	nextEnd
)

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
	p := &poller{file: os.NewFile(uintptr(fd), "worker epoll"), epoll: fd, wakeFD: wake}
	if p.conn, err = p.file.SyscallConn(); err == nil {
		err = p.add(wake, readyWake, 0)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("set up worker epoll: %w", err)
	}
	return p, nil
}

// add waits for fd, too, and reports it as what. The bits go into the event's data,
// in the place of a descriptor number.
func (p *poller) add(fd int, what readiness, flags uint32) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | flags, Fd: int32(what)})
}

// change sets the events of a descriptor that was added. One that is readable already is
// reported then. It belongs to the worker.
func (p *poller) change(fd int, what readiness, events uint32) error {
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(what)})
}

// run calls t until it ends or fails.
//
// The turns run inside of the callback of the instance's Read. That is what saves the
// look that would otherwise be needed before each park: Go's netpoller forgets what has
// become ready when Read begins and when it wakes, and not while the callback runs, so
// what becomes ready during a turn, which that has perhaps not seen, ends the park. A
// descriptor that wakes nobody while it is readable, as one of event channels, has to be
// read until it is empty in the turn in which it was ready.
func (p *poller) run(t turn) error {
	var ended error
	ready := readiness(0)
	turns := func(fd uintptr) bool {
		p.disarm()
		now := ready | p.look(fd)
		ready = 0
		for {
			n, pause, err := t(now)
			switch {
			case err != nil || n == nextEnd:
				ended = err
				return true
			case n == nextPark:
				ended = p.arm(pause)
				return ended != nil
			case n == nextLook:
				now = p.look(fd)
			default:
				now = 0
			}
		}
	}
	for {
		err := p.conn.Read(turns)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			if err != nil {
				err = fmt.Errorf("wait: %w", err)
			}
			return errors.Join(ended, err)
		}
		p.disarm()
		ready = readyTimeout
	}
}

// look is what is ready now. A wake-up is taken: the next one is a new one.
func (p *poller) look(epoll uintptr) (ready readiness) {
	n, err := readyNow(epoll, p.events[:])
	for err == unix.EINTR {
		n, err = readyNow(epoll, p.events[:])
	}
	for i := range max(n, 0) {
		ready |= readiness(p.events[i].Fd)
	}
	if ready&readyWake != 0 {
		var b [8]byte
		unix.Read(p.wakeFD, b[:])
	}
	return ready
}

// arm has a park end after pause, if that is above zero.
func (p *poller) arm(pause time.Duration) error {
	if pause <= 0 {
		return nil
	}
	p.armed = true
	if err := p.file.SetReadDeadline(time.Now().Add(pause)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	return nil
}

func (p *poller) disarm() {
	if p.armed {
		p.armed = false
		_ = p.file.SetReadDeadline(time.Time{}) // fails only on a file that is closed
	}
}

// wake makes for a turn. Any goroutine may call it; after close it does nothing. Who asks
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
