package xensim

import (
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

// Notify implements [xen.EventFile]. It is at most one system call, and none if the
// other end has an event pending or is masked; only the first one after the other
// end was bound asks the server. A port whose other end is unbound swallows it.
func (e *EventFile) Notify(port xen.Port) error {
	for {
		ch, err := e.notify(port)
		if ch == nil || err != nil {
			return err
		}
		if err := e.learn(ch); err != nil {
			return fmt.Errorf("notify port %d: %w", port, err)
		}
	}
}

// notify raises the other end, or returns the channel whose other end must be
// learnt first.
func (e *EventFile) notify(port xen.Port) (*channel, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closed {
		return nil, fmt.Errorf("notify port %d: %w", port, xen.ErrClosed)
	}
	ch := e.ports[port]
	if ch == nil {
		return nil, fmt.Errorf("notify port %d: %w", port, xen.ErrNotBound)
	}
	link := ch.link.Load()
	if link == 0 {
		return nil, nil
	}
	p := ch.peer
	if p == nil || p.link != link {
		return ch, nil
	}
	if p.slot.raise(p.generation) {
		return nil, wake(p.fd)
	}
	return nil, nil
}

// learn asks the server for a channel's other end.
func (e *EventFile) learn(ch *channel) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.ports[ch.port] != ch {
		return nil // Notify will say so
	}
	return e.resolve(ch)
}

// resolve asks the server for a channel's other end. The lock is held, or the caller
// owns e and nobody knows the port yet.
func (e *EventFile) resolve(ch *channel) error {
	r, err := e.caller.call(request{Op: opPeer, Number: uint32(ch.port)})
	if err != nil {
		return err
	}
	if len(r.Objects) == 0 {
		// It went in between, and took the link with it.
		ch.setPeer(nil)
		return nil
	}
	if len(r.Objects) != 2 || len(r.Values) != 3 {
		r.close()
		return unix.EPROTO
	}
	p := &peer{link: r.Values[0], generation: uint32(r.Values[2]), fd: r.Objects[1].fd}
	if p.view, err = r.Objects[0].open(); err != nil {
		r.close()
		return err
	}
	p.slot = slotWord{word(p.view.mem, int(r.Values[1])*slotWords)}
	ch.setPeer(p)
	return nil
}

// setPeer replaces what is known of the other end.
func (ch *channel) setPeer(p *peer) {
	if old := ch.peer; old != nil {
		old.view.close()
		if old.fd >= 0 {
			unix.Close(old.fd)
		}
	}
	ch.peer = p
}
