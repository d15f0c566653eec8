package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

const (
	// moverBatch is how many small frames go at once, as in pkg/netfront.
	moverBatch = 32
	// moverSuper is the length from which a frame goes alone.
	moverSuper = 4096
)

// mover hands the frames of one queue to another, header and all, in the ways of
// pkg/netfront: adaptive batches of small frames, super-frames one by one, and while
// there are none an inner epoll that Go's netpoller waits for.
type mover struct {
	reader *tap.Reader
	writer *tap.Writer
	conn   syscall.RawConn // of the epoll instance
	events [1]unix.EpollEvent
	check  func(fd uintptr) bool // made once, so that waiting allocates nothing

	bufs   [][]byte
	lens   []int
	iovecs []unix.Iovec // one for each buffer
	frames [][]unix.Iovec
	res    []int32
	batch  int // frames to read at once
	super  bool
	small  int // small frames in a row, while super
}

func newMover(from, to *tap.Queue) (*mover, error) {
	m := &mover{batch: 2, lens: make([]int, moverBatch), iovecs: make([]unix.Iovec, moverBatch),
		frames: make([][]unix.Iovec, moverBatch), res: make([]int32, moverBatch)}
	// Anonymous memory, which does not move and of which most is never touched.
	arena, err := unix.Mmap(-1, 0, moverBatch*tap.ReadRoom, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map buffers: %w", err)
	}
	for i := range moverBatch {
		m.bufs = append(m.bufs, arena[i*tap.ReadRoom:(i+1)*tap.ReadRoom])
		m.iovecs[i].Base = &m.bufs[i][0]
		m.frames[i] = m.iovecs[i : i+1]
	}
	if m.reader, err = from.NewReader(moverBatch); err != nil {
		return nil, err
	}
	if m.writer, err = to.NewWriter(moverBatch); err != nil {
		return nil, err
	}
	return m, m.watch(from.FD())
}

// watch makes the epoll instance for fd. It lives as long as the process.
func (m *mover) watch(fd int) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll instance: %w", err)
	}
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("wait for a queue: %w", err)
	}
	// os.NewFile puts a descriptor into the netpoller only if it is non-blocking.
	if err := unix.SetNonblock(ep, true); err != nil {
		return fmt.Errorf("set epoll instance non-blocking: %w", err)
	}
	// RawSyscall: it never blocks, and a syscall that the scheduler is told of wakes
	// the runtime's monitor thread after each pause, which is a quarter of a round
	// trip's time. unsafe: events is part of m, which is on the heap and outlives the
	// call.
	m.check = func(fd uintptr) bool {
		for {
			n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, fd, uintptr(unsafe.Pointer(&m.events)), uintptr(len(m.events)), 0, 0, 0)
			if errno != unix.EINTR {
				return errno != 0 || n != 0
			}
		}
	}
	m.conn, err = os.NewFile(uintptr(ep), "mover epoll").SyscallConn()
	return err
}

func (m *mover) run() error {
	for {
		n, err := m.move()
		if err != nil {
			return err
		}
		if n == 0 {
			if err := m.conn.Read(m.check); err != nil {
				return fmt.Errorf("wait: %w", err)
			}
		}
	}
}

// move moves one batch. It returns 0 when the queue was seen empty.
func (m *mover) move() (int, error) {
	limit := m.batch
	if m.super {
		limit = 1
	}
	n, err := m.reader.Read(m.bufs[:limit], m.lens)
	if err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	if n == 0 {
		return 0, nil
	}
	for i, l := range m.lens[:n] {
		m.iovecs[i].SetLen(l)
		m.guess(l)
	}
	// A frame that is refused is lost, as on any bridge.
	if err := m.writer.Write(m.frames[:n], m.res); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	if n < limit {
		m.batch = max(2, n+1)
		return 0, nil
	}
	m.batch = min(moverBatch, 2*m.batch)
	return n, nil
}

// guess notes whether super-frames come.
func (m *mover) guess(length int) {
	switch {
	case length > moverSuper:
		m.super, m.small = true, 0
	case m.super:
		if m.small++; m.small >= 2 {
			m.super, m.batch = false, 2
		}
	}
}
