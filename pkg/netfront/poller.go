package netfront

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
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

	spent  int       // work since the last park, until it is a share
	crowds bool      // counted in crowd
	procs  int       // Go's processors, if it is
	began  time.Time // its time, if it is

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

const (
	// share is how much work a worker does in a row until it is one of the crowd: ring
	// slots, some 0.6 us each where the kernel does nothing but take and drop frames.
	share = 512
	// turnCost is what a turn counts at least: one that finds little takes time, too.
	turnCost = 8
	// quantum is for how long a worker works at a time in a crowd. To give way costs 4 us.
	quantum = 200 * time.Microsecond
)

// crowd is how many workers of this process have used up a share and not parked since. It is
// the process's, as Go's processors are, whichever Device a worker is of. With fewer of
// them than processors, some processor is free to wait for what becomes ready, and nobody
// has to give way.
var crowd atomic.Int32

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
	defer p.parks()
	var ended error
	ready := readiness(0)
	turns := func(fd uintptr) bool {
		p.disarm()
		if p.crowds { // it gave way
			p.began = time.Now()
		}
		now := ready | p.look(fd)
		ready = 0
		for {
			n, pause, err := t(now)
			switch {
			case err != nil || n == nextEnd:
				ended = err
				return true
			case n == nextPark:
				p.parks()
				ended = p.arm(pause)
				return ended != nil
			case p.timeIsUp():
				p.giveWay()
				return false
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

// spend counts work of this turn.
func (p *poller) spend(slots int) { p.spent += slots }

// hurried tells whether others may be waiting for a processor: turns should be short.
func (p *poller) hurried() bool { return p.crowds && int(crowd.Load()) >= p.procs }

// timeIsUp is called after a turn that is to be followed by another one at once. It tells
// whether the worker must give way before.
func (p *poller) timeIsUp() bool {
	if !p.crowds {
		if p.spent += turnCost; p.spent < share {
			return false
		}
		p.crowds, p.procs, p.began = true, runtime.GOMAXPROCS(0), time.Now()
		crowd.Add(1)
	}
	return p.hurried() && time.Since(p.began) >= quantum
}

// parks is called when the worker parks, for others to run, or ends.
func (p *poller) parks() {
	p.spent = 0
	if p.crowds {
		p.crowds = false
		crowd.Add(-1)
	}
}

// giveWay makes the park that follows one that ends at once, after all others have had
// their turn. The way is by the netpoller: Go's scheduler asks that only when no goroutine
// is left to be run, so that a worker which merely yields to those (runtime.Gosched) keeps
// the ones away that wait for descriptors, until the runtime's monitor looks, every 10 ms.
// With 16 workers that are always busy on two processors another one waits for 160 ms if
// nobody gives way, 7 ms if they yield, and 1.5 ms like this (turns of 0.2 ms; with a
// processor for each worker, at the mercy of the kernel's scheduler, it was 4 ms).
func (p *poller) giveWay() {
	p.procs = runtime.GOMAXPROCS(0) // it follows a container's limit
	one := [8]byte{1}
	unix.RawSyscall(unix.SYS_WRITE, uintptr(p.wakeFD), uintptr(unsafe.Pointer(&one[0])), uintptr(len(one)))
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
