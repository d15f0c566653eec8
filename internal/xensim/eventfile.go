package xensim

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

// EventFile is an open evtchn. It implements [xen.EventFile]: one goroutine owns it,
// Notify may be called by any.
type EventFile struct {
	caller caller
	fd     int    // eventfd; readable while a port is pending and not masked
	forget func() // tells the connection that the file is closed

	// mu keeps Notify apart from what changes the ports. The owner reads them
	// without it.
	mu     sync.RWMutex
	closed bool
	view   view // the file's two words for each slot
	ports  map[xen.Port]*channel
	order  []*channel // for Read
	next   int        // where in order the next Read begins, so that all get a turn
}

// channel is a port that is bound here.
type channel struct {
	port xen.Port
	slot slotWord
	link *atomic.Uint64
	peer *peer // as of the last Notify; nil: not asked for yet
}

// peer is what an end needs of the other one to raise it.
type peer struct {
	link       uint64 // of the binding that this was asked for
	view       view
	slot       slotWord
	generation uint32
	fd         int
}

func newClientEvents(c caller) (*EventFile, error) {
	e := &EventFile{caller: c, fd: -1, ports: make(map[xen.Port]*channel)}
	if err := e.attach(); err != nil {
		return nil, errors.Join(fmt.Errorf("open event channels: %w", err), e.Close())
	}
	return e, nil
}

// attach gets the file's memory, its eventfd and the ports that it has already.
func (e *EventFile) attach() error {
	r, err := e.caller.call(request{Op: opEvents})
	if err != nil {
		return err
	}
	if len(r.Objects) != 2 || len(r.Values)%2 != 0 {
		r.close()
		return unix.EPROTO
	}
	e.fd = r.Objects[1].fd
	if e.view, err = r.Objects[0].open(); err != nil {
		return err
	}
	for i := 0; i < len(r.Values); i += 2 {
		e.add(r.Values[i], r.Values[i+1])
	}
	return nil
}

// add begins to use a port. The lock is held, or nobody knows e yet.
func (e *EventFile) add(number, slot uint64) xen.Port {
	at := int(slot) * slotWords
	ch := &channel{
		port: xen.Port(number),
		slot: slotWord{word(e.view.mem, at)},
		link: word(e.view.mem, at+1),
	}
	e.ports[ch.port] = ch
	e.order = append(e.order, ch)
	return ch.port
}

// FD implements [xen.EventFile].
func (e *EventFile) FD() int { return e.fd }

// Bind implements [xen.EventFile].
func (e *EventFile) Bind(remote xen.DomID) (xen.Port, error) {
	port, err := e.bind(request{Op: opBind, Domain: uint32(remote)})
	if err != nil {
		return 0, fmt.Errorf("bind event channel for domain %d: %w", remote, err)
	}
	return port, nil
}

// BindInterdomain joins a new port to one that remote has bound for this domain
// (EVTCHNOP_bind_interdomain), and raises the new port once, as Xen does. It fails
// with [unix.EINVAL] when remote's port is not such a port, or has an other end
// already, and with [unix.ESRCH] when there is no such domain.
func (e *EventFile) BindInterdomain(remote xen.DomID, port xen.Port) (xen.Port, error) {
	local, err := e.bind(request{Op: opBindInterdomain, Domain: uint32(remote), Number: uint32(port)})
	if err == nil {
		// Now, so that the first Notify costs no more than the next.
		err = e.resolve(e.ports[local])
		if err != nil {
			err = errors.Join(err, e.Unbind(local))
		}
	}
	if err != nil {
		return 0, fmt.Errorf("bind to port %d of domain %d: %w", port, remote, err)
	}
	return local, nil
}

func (e *EventFile) bind(q request) (xen.Port, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return 0, xen.ErrClosed
	}
	r, err := e.caller.call(q)
	if err != nil {
		return 0, err
	}
	if len(r.Values) != 2 {
		return 0, unix.EPROTO
	}
	return e.add(r.Values[0], r.Values[1]), nil
}

// Ports lists the ports that are bound here.
func (e *EventFile) Ports() []xen.Port {
	list := make([]xen.Port, len(e.order))
	for i, ch := range e.order {
		list[i] = ch.port
	}
	return list
}

// Read implements [xen.EventFile]. It is one system call.
func (e *EventFile) Read(ports []xen.Port) (int, error) {
	if e.closed {
		return 0, fmt.Errorf("read events: %w", xen.ErrClosed)
	}
	if len(ports) == 0 {
		return 0, nil
	}
	var count [8]byte
	if _, _, err := unix.RawSyscall(unix.SYS_READ, uintptr(e.fd), uintptr(unsafe.Pointer(&count[0])), 8); err != 0 {
		if err == unix.EAGAIN {
			return 0, nil
		}
		return 0, fmt.Errorf("read events: %w", err)
	}
	n := 0
	at := e.next
	for range e.order {
		if at >= len(e.order) {
			at = 0
		}
		ch := e.order[at]
		if n == len(ports) {
			if ch.slot.ready() {
				// There is more than fits: the descriptor must stay readable.
				return n, wake(e.fd)
			}
		} else if ch.slot.take() {
			ports[n] = ch.port
			n++
			e.next = at + 1
		}
		at++
	}
	return n, nil
}

// Unmask implements [xen.EventFile]. A port that is not bound here is ignored, as
// evtchn does.
func (e *EventFile) Unmask(port xen.Port) error {
	if e.closed {
		return fmt.Errorf("unmask port %d: %w", port, xen.ErrClosed)
	}
	if ch := e.ports[port]; ch != nil && ch.slot.unmask() {
		return wake(e.fd)
	}
	return nil
}

// Unbind implements [xen.EventFile]. The other end becomes unbound.
func (e *EventFile) Unbind(port xen.Port) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return fmt.Errorf("unbind port %d: %w", port, xen.ErrClosed)
	}
	ch := e.ports[port]
	if ch == nil {
		return fmt.Errorf("unbind port %d: %w", port, xen.ErrNotBound)
	}
	delete(e.ports, port)
	for i := range e.order {
		if e.order[i] == ch {
			e.order = append(e.order[:i], e.order[i+1:]...)
			break
		}
	}
	ch.setPeer(nil)
	if _, err := e.caller.call(request{Op: opUnbind, Number: uint32(port)}); err != nil {
		return fmt.Errorf("unbind port %d: %w", port, err)
	}
	return nil
}

// Handle returns a duplicate of the handle's descriptor, which the caller owns. As
// long as a process has one, the ports stay bound. It is not [EventFile.FD]. There is
// none in the server's own process.
func (e *EventFile) Handle() (int, error) { return duplicateHandle(e.caller) }

// AdoptEventFile makes an EventFile of a descriptor that [EventFile.Handle] returned,
// which it takes over. The ports are bound and masked as they were; those that the
// other process had been given and not unmasked stay masked until Unmask. Only one
// process at a time may use a handle.
func AdoptEventFile(fd int) (*EventFile, error) {
	conn, err := adoptSocket(fd)
	if err != nil {
		return nil, fmt.Errorf("adopt event channels: %w", err)
	}
	e, err := newClientEvents(&socketCaller{conn: conn})
	if err != nil {
		return nil, err
	}
	// The other process may have died between emptying the eventfd and masking.
	if err := wake(e.fd); err != nil {
		return nil, errors.Join(fmt.Errorf("adopt event channels: %w", err), e.Close())
	}
	return e, nil
}

// Close implements [xen.EventFile].
func (e *EventFile) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	if e.forget != nil {
		e.forget()
	}
	for _, ch := range e.order {
		ch.setPeer(nil)
	}
	clear(e.ports)
	e.order = nil
	errs := []error{e.caller.close(), e.view.close()}
	if e.fd >= 0 {
		errs = append(errs, unix.Close(e.fd))
	}
	return errors.Join(errs...)
}
