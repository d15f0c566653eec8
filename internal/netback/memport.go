package netback

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"golang.org/x/sys/unix"
)

// Received is a frame that a guest sent to a [MemoryPort].
type Received struct {
	Queue  int
	Header tap.VirtioHeader // as a TAP would get it
	Flags  uint16           // NETTXF_* of the first slot
	Slots  int              // ring slots, extras included
	Frame  []byte
}

// MemoryPort is a port for tests: what it gets it keeps until asked for. Any
// goroutine may call its methods.
type MemoryPort struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each change
	queues   []*memoryQueue
	received []Received
	takes    Takes
	carrier  bool
	closed   bool
	refuse   error
}

// ErrPort is returned for a queue that is not there and after the port's end.
var ErrPort = errors.New("no such queue on the port")

// NewMemoryPort returns a port without queues; the vif opens them at its connect.
func NewMemoryPort() *MemoryPort {
	return &MemoryPort{changed: make(chan struct{})}
}

// signal tells those in wait; the caller holds the lock.
func (p *MemoryPort) signal() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// wait blocks until cond, which is called with the lock held, is true.
func (p *MemoryPort) wait(ctx context.Context, cond func() bool) error {
	for {
		p.mu.Lock()
		ok, changed := cond(), p.changed
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Send gives the guest a frame through the queue. The header says what is left to be
// done on it; the zero value is nothing.
func (p *MemoryPort) Send(queue int, h tap.VirtioHeader, frame []byte) error {
	b := make([]byte, tap.VirtioHeaderSize, tap.VirtioHeaderSize+len(frame))
	h.Put(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	if queue >= len(p.queues) {
		return fmt.Errorf("send to queue %d: %w", queue, ErrPort)
	}
	q := p.queues[queue]
	q.waiting = append(q.waiting, append(b, frame...))
	one := [8]byte{1}
	if _, err := unix.Write(q.fd, one[:]); err != nil {
		return fmt.Errorf("signal queue %d: %w", queue, err)
	}
	return nil
}

// Receive returns the next frame that the guest sent, on whatever queue.
func (p *MemoryPort) Receive(ctx context.Context) (Received, error) {
	var r Received
	err := p.wait(ctx, func() bool {
		if len(p.received) == 0 {
			return false
		}
		r = p.received[0]
		p.received = p.received[1:]
		return true
	})
	return r, err
}

// Discard forgets what was received and not yet asked for, and returns how much it
// was.
func (p *MemoryPort) Discard() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.received)
	p.received = nil
	return n
}

// Waiting is how many frames a queue still has for the guest.
func (p *MemoryPort) Waiting(queue int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if queue >= len(p.queues) {
		return 0
	}
	return len(p.queues[queue].waiting)
}

// WaitCarrier waits until the carrier is on or off.
func (p *MemoryPort) WaitCarrier(ctx context.Context, on bool) error {
	return p.wait(ctx, func() bool { return p.carrier == on })
}

// Takes is what the frontend said at the last connect.
func (p *MemoryPort) Takes() Takes {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takes
}

// Queues is how many queues the frontend has now.
func (p *MemoryPort) Queues() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queues)
}

// Refuse makes the port fail with err for every frame that the guest sends; nil ends
// it.
func (p *MemoryPort) Refuse(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = err
}

// Attach implements [Port].
func (p *MemoryPort) Attach(n int, takes Takes) ([]PortQueue, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrPort
	}
	queues := make([]PortQueue, 0, n)
	for i := range n {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			p.closeQueues()
			return nil, fmt.Errorf("create eventfd: %w", err)
		}
		q := &memoryQueue{port: p, index: i, fd: fd}
		p.queues = append(p.queues, q)
		queues = append(queues, q)
	}
	p.takes = takes
	p.signal()
	return queues, nil
}

// Detach implements [Port]. Frames that wait for the guest are lost.
func (p *MemoryPort) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeQueues()
	p.signal()
	return nil
}

func (p *MemoryPort) closeQueues() {
	for _, q := range p.queues {
		unix.Close(q.fd)
	}
	p.queues = nil
}

// SetCarrier implements [Port].
func (p *MemoryPort) SetCarrier(on bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.carrier = on
	p.signal()
	return nil
}

// Close implements [Port].
func (p *MemoryPort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.closeQueues()
	p.signal()
	return nil
}

// memoryQueue is one queue of a MemoryPort, whose lock guards it.
type memoryQueue struct {
	port    *MemoryPort
	index   int
	fd      int // eventfd
	waiting [][]byte
}

func (q *memoryQueue) FD() int { return q.fd }

func (q *memoryQueue) Read(bufs [][]byte, sizes []int) (int, error) {
	for i, b := range bufs {
		n, err := q.ReadFrame([][]byte{b})
		if n == 0 || err != nil {
			return i, err
		}
		sizes[i] = n
	}
	return len(bufs), nil
}

func (q *memoryQueue) ReadFrame(parts [][]byte) (int, error) {
	q.port.mu.Lock()
	defer q.port.mu.Unlock()
	if len(q.waiting) == 0 {
		var b [8]byte
		unix.Read(q.fd, b[:]) // drained: the next Send is a new edge
		return 0, nil
	}
	frame := q.waiting[0]
	q.waiting = q.waiting[1:]
	n := 0
	for _, p := range parts {
		n += copy(p, frame[n:])
	}
	return n, nil
}

func (q *memoryQueue) Write(frames []Outgoing, errs []error) {
	q.port.mu.Lock()
	defer q.port.mu.Unlock()
	for i, f := range frames {
		if errs[i] = q.port.refuse; errs[i] != nil {
			continue
		}
		r := Received{Queue: q.index, Flags: f.Flags, Slots: f.Slots}
		var whole []byte
		for _, p := range f.Parts {
			whole = append(whole, p...)
		}
		if r.Header, errs[i] = tap.ParseVirtioHeader(whole); errs[i] != nil {
			continue
		}
		r.Frame = whole[tap.VirtioHeaderSize:]
		q.port.received = append(q.port.received, r)
	}
	q.port.signal()
}
