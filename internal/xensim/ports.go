package xensim

import (
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

const (
	// maxPort is the highest port of a domain: xl's default of event_channels.
	maxPort = 1023
	// fileSlots is how many ports one EventFile can have.
	fileSlots = 1024
)

// An EventFile's memory has two words for each slot, of which a bound port has one:
//
//	word 0  state: bit 0 pending, bit 1 masked, bits 32-63 the slot's generation,
//	        by which the other end knows that it is still the port it was bound to
//	word 1  link: 0 while no other end is bound, else a number of this binding
//
// The server writes word 1 and makes slots; after that the two ends work on word 0
// by compare-and-swap alone.
const (
	slotPending = 1 << 0
	slotMasked  = 1 << 1
	slotWords   = 2
	eventMemory = fileSlots * slotWords * 8
)

func slotState(generation uint32) uint64 { return uint64(generation) << 32 }

// port is one end of an event channel. The hypervisor's lock guards it.
type port struct {
	number     xen.Port
	d          *domain
	file       *eventFile // nil: closed, but still held
	slot       int
	generation uint32
	remote     xen.DomID // who is, or may be, at the other end
	peer       *port     // nil: unbound
	holds      int       // unmap notifications that will use it
	lost       bool      // at a restore: its number may be another's by now
}

// eventFile is an open /dev/xen/evtchn.
type eventFile struct {
	h      *hypervisor
	d      *domain
	memory *region
	fd     int     // eventfd
	slots  []*port // nil: free
}

func newEventFile(h *hypervisor, d *domain) (*eventFile, error) {
	memory, err := newRegion("xen-event-channels", eventMemory, h.heap)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		memory.close()
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	return &eventFile{h: h, d: d, memory: memory, fd: fd}, nil
}

// newPort gives f a port with the lowest free number.
func (f *eventFile) newPort(remote xen.DomID) (*port, error) {
	p := &port{number: 1, d: f.d, file: f, remote: remote, generation: f.h.nextSerial()}
	for f.d.ports[p.number] != nil {
		p.number++
	}
	for p.slot < len(f.slots) && f.slots[p.slot] != nil {
		p.slot++
	}
	if p.number > maxPort || p.slot >= fileSlots {
		return nil, unix.ENOSPC
	}
	if p.slot == len(f.slots) {
		f.slots = append(f.slots, nil)
	}
	f.slots[p.slot] = p
	f.d.ports[p.number] = p
	p.setLink(0)
	p.state().Store(slotState(p.generation))
	return p, nil
}

// bindInterdomain joins a new port of f to an unbound one of remote
// (EVTCHNOP_bind_interdomain). The new port is raised at once, since an event that
// remote sent while it was unbound is lost otherwise.
func (f *eventFile) bindInterdomain(remote xen.DomID, number xen.Port) (*port, error) {
	other := f.h.domains[remote]
	if other == nil {
		return nil, unix.ESRCH
	}
	theirs := other.ports[number]
	if theirs == nil || theirs.peer != nil || theirs.remote != f.d.id {
		return nil, unix.EINVAL
	}
	p, err := f.newPort(remote)
	if err != nil {
		return nil, err
	}
	p.peer, theirs.peer = theirs, p
	link := uint64(f.h.nextSerial())
	p.setLink(link)
	theirs.setLink(link)
	p.raise()
	return p, nil
}

// unbind closes a port of f. Its number is free again unless it is held.
func (f *eventFile) unbind(p *port) {
	if p.lost {
		f.h.lostPortUse("unbind of", p)
	}
	f.slots[p.slot] = nil
	p.state().Store(0)
	p.setLink(0)
	p.file = nil
	if p.peer != nil {
		p.peer.setLink(0)
	}
	if p.holds == 0 {
		f.h.remove(p)
	}
}

// drop gives one hold of a port up.
func (h *hypervisor) drop(p *port) {
	p.holds--
	if p.holds == 0 && p.file == nil {
		h.remove(p)
	}
}

// remove ends a port that has no file any more. Its other end becomes unbound, for
// the same remote domain to bind again (ECS_UNBOUND in evtchn_close).
func (h *hypervisor) remove(p *port) {
	if p.d.ports[p.number] == p {
		delete(p.d.ports, p.number)
	}
	other := p.peer
	if other == nil {
		return
	}
	p.peer, other.peer = nil, nil
	other.setLink(0)
	other.rouse()
}

func (p *port) words() []byte {
	at := p.slot * slotWords * 8
	return p.file.memory.mem[at : at+slotWords*8]
}

func (p *port) state() slotWord { return slotWord{word(p.words(), 0)} }

func (p *port) setLink(link uint64) {
	if p.file != nil {
		word(p.words(), 1).Store(link)
	}
}

// raise makes the port pending, as an event from the other end does.
func (p *port) raise() {
	if p.file != nil && p.state().raise(p.generation) {
		wake(p.file.fd)
	}
}

// notify raises the other end.
func (p *port) notify() {
	if p.peer != nil {
		p.peer.raise()
	}
}

// rouse wakes the port's reader if it has something to read. A process that was
// killed between setting the bit and writing the eventfd would have left it asleep.
func (p *port) rouse() {
	if p.file == nil {
		return
	}
	if p.state().ready() {
		wake(p.file.fd)
	}
}
