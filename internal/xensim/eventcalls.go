package xensim

import (
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

func (f *eventFile) call(q request) (reply, error) {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	if f.fd < 0 {
		return reply{}, unix.EBADF
	}
	if q.Domain >= firstReservedDomID {
		return reply{}, unix.EINVAL
	}
	remote := xen.DomID(q.Domain)
	switch q.Op {
	case opBind:
		p, err := f.newPort(remote)
		if err != nil {
			return reply{}, err
		}
		return reply{Values: []uint64{uint64(p.number), uint64(p.slot)}}, nil
	case opBindInterdomain:
		p, err := f.bindInterdomain(remote, xen.Port(q.Number))
		if err != nil {
			return reply{}, err
		}
		return reply{Values: []uint64{uint64(p.number), uint64(p.slot)}}, nil
	case opUnbind:
		p, err := f.own(q.Number)
		if err != nil {
			return reply{}, err
		}
		f.unbind(p)
		return reply{}, nil
	case opPeer:
		return f.describePeer(q.Number)
	case opEvents:
		return f.describe()
	}
	return reply{}, unix.ENOTTY
}

// own finds a port that is bound through f (ENOTCONN otherwise, as evtchn has it).
func (f *eventFile) own(number uint32) (*port, error) {
	if p := f.d.ports[xen.Port(number)]; p != nil && p.file == f {
		return p, nil
	}
	for _, p := range f.slots {
		if p != nil && p.lost && p.number == xen.Port(number) {
			return p, nil
		}
	}
	return nil, unix.ENOTCONN
}

// describePeer is how an end learns what it must raise. No values: unbound.
func (f *eventFile) describePeer(number uint32) (reply, error) {
	p, err := f.own(number)
	if err != nil {
		return reply{}, err
	}
	if p.lost {
		f.h.lostPortUse("notify of", p)
		return reply{}, unix.EINVAL
	}
	if p.peer == nil || p.peer.file == nil {
		return reply{}, nil
	}
	r, err := p.peer.file.objects()
	if err != nil {
		return reply{}, err
	}
	r.Values = []uint64{word(p.words(), 1).Load(), uint64(p.peer.slot), uint64(p.peer.generation)}
	return r, nil
}

// describe is what a process gets that begins to use f. The one before may have died
// in the middle of a Notify: that is made good here.
func (f *eventFile) describe() (reply, error) {
	r, err := f.objects()
	if err != nil {
		return reply{}, err
	}
	for _, p := range f.slots {
		if p != nil {
			r.Values = append(r.Values, uint64(p.number), uint64(p.slot))
			if p.peer != nil {
				p.peer.rouse()
			}
		}
	}
	return r, nil
}

// objects are the file's memory and eventfd.
func (f *eventFile) objects() (reply, error) {
	memory, err := f.memory.share(0, eventMemory, true)
	if err != nil {
		return reply{}, err
	}
	fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		memory.close()
		return reply{}, err
	}
	return reply{Objects: []object{memory, {fd: fd}}}, nil
}

func (f *eventFile) close() {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	if f.fd < 0 {
		return
	}
	for _, p := range f.slots {
		if p != nil {
			f.unbind(p)
		}
	}
	f.memory.close()
	unix.Close(f.fd)
	f.fd = -1
}
