package netfront

import (
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"golang.org/x/sys/unix"
)

// simTAP is the TAP: frames of the guest that wait, and what is made of those for it.
type simTAP struct {
	s     *sim
	queue []simFrame
	seq   uint64
	edge  bool // it has become readable
	fails bool // it refuses what is written
	dirty [txBatch + 1]int
}

// simFrame is a frame of the corpus, with its number.
type simFrame struct {
	seq  uint64
	kind int
}

func (p *simTAP) reset() { *p = simTAP{s: p.s, queue: p.queue[:0], dirty: p.dirty} }

// repoison forgets what was sent to one domain before there is another one.
func (p *simTAP) repoison() {
	for i, n := range p.dirty {
		fillPoison(p.s.memory.arena[i*frameRoom : i*frameRoom+n])
		p.dirty[i] = 0
	}
	fillPoison(p.s.memory.arena[txBatch*frameRoom:])
}

// feed has the guest send a frame.
func (p *simTAP) feed(kind int) {
	p.seq++
	p.queue = append(p.queue, simFrame{p.seq, kind})
	p.edge = true
}

func (p *simTAP) Read(bufs [][]byte, n []int) (int, error) {
	p.s.call()
	for i := range bufs {
		if len(p.queue) == 0 {
			return i, nil
		}
		f := p.queue[0]
		p.queue = p.queue[:copy(p.queue, p.queue[1:])]
		n[i] = copy(bufs[i], corpus[f.kind].read)
		putSeq(bufs[i][:n[i]], f.seq)
		p.s.check.kinds[f.seq%uint64(len(p.s.check.kinds))] = f
		if at := int(addr(bufs[i]) - addr(p.s.memory.arena)); at >= 0 && at < arenaSize {
			p.dirty[at/frameRoom] = max(p.dirty[at/frameRoom], n[i])
		}
	}
	return len(bufs), nil
}

func (p *simTAP) Write(frames [][]unix.Iovec, res []int32) error {
	p.s.call()
	p.s.check.written(p.s, frames)
	for i, iov := range frames {
		n := 0
		for _, v := range iov {
			n += int(v.Len)
		}
		res[i] = int32(n)
		if p.fails && p.s.rnd.IntN(2) == 0 {
			res[i] = -int32(unix.EIO)
		}
	}
	p.s.figures.Received += uint64(len(frames))
	return nil
}

// simEvents is an open /dev/xen/evtchn.
type simEvents struct {
	s       *sim
	first   xen.Port
	ports   []xen.Port
	pending []bool
	masked  []bool
}

func (e *simEvents) readable() bool {
	for i := range e.ports {
		if e.pending[i] && !e.masked[i] {
			return true
		}
	}
	return false
}

// raise is the backend's event on the port.
func (e *simEvents) raise(p xen.Port) {
	for i := range e.ports {
		e.pending[i] = e.pending[i] || e.ports[i] == p
	}
}

func (e *simEvents) Bind(xen.DomID) (xen.Port, error) {
	p := e.first + xen.Port(len(e.ports))
	e.ports, e.pending, e.masked = append(e.ports, p), append(e.pending, false), append(e.masked, false)
	return p, nil
}

func (e *simEvents) Read(ports []xen.Port) (n int, err error) {
	e.s.call()
	for i := range e.ports {
		if e.pending[i] && !e.masked[i] && n < len(ports) {
			ports[n] = e.ports[i]
			e.pending[i], e.masked[i] = false, true
			n++
		}
	}
	return n, nil
}

func (e *simEvents) Unmask(p xen.Port) error {
	e.s.call()
	for i := range e.ports {
		if e.ports[i] == p {
			e.masked[i] = false
			return nil
		}
	}
	return fmt.Errorf("unmask port %d: %w", p, xen.ErrNotBound)
}

func (e *simEvents) Notify(xen.Port) error       { e.s.call(); return nil }
func (e *simEvents) FD() int                     { return -1 }
func (e *simEvents) Unbind(xen.Port) error       { return unix.EOPNOTSUPP }
func (e *simEvents) Handle() (fd int, err error) { return -1, unix.EOPNOTSUPP }
func (e *simEvents) Close() error                { return nil }

// simGrants is /dev/xen/gntalloc: pages outside of Go's heap, zeroed when they are given out.
type simGrants struct {
	free map[int][]*simPages // by number of pages
	refs map[xen.GrantRef]*simPages
	next xen.GrantRef
	all  []*simPages
}

type simPages struct {
	k        *simGrants
	mem      []byte
	refs     []xen.GrantRef
	peer     xen.DomID
	writable bool
}

func (k *simGrants) Alloc(peer xen.DomID, n int, writable bool) (xen.Pages, error) {
	var p *simPages
	if list := k.free[n]; len(list) > 0 {
		p, k.free[n] = list[len(list)-1], list[:len(list)-1]
	} else {
		mem, err := unix.Mmap(-1, 0, n*xen.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, err
		}
		p = &simPages{k: k, mem: mem, refs: make([]xen.GrantRef, n)}
		k.all = append(k.all, p)
	}
	clear(p.mem)
	p.peer, p.writable = peer, writable
	for i := range p.refs {
		k.next++
		p.refs[i] = k.next
		k.refs[k.next] = p
	}
	return p, nil
}

func (k *simGrants) unmap() {
	for _, p := range k.all {
		unmap(p.mem)
	}
}

func (k *simGrants) Limit() (int, error)           { return 1 << 20, nil }
func (k *simGrants) RaiseLimit(int) error          { return unix.EPERM }
func (k *simGrants) Left() (int, error)            { return 0, nil }
func (k *simGrants) Close() error                  { return nil }
func (k *simGrants) Handle() (int, error)          { return -1, unix.EOPNOTSUPP }
func (k *simGrants) Adopt(int) (xen.Grants, error) { return nil, unix.EOPNOTSUPP }
func (k *simGrants) Remap(uint64, []xen.GrantRef) (xen.Pages, error) {
	return nil, unix.EOPNOTSUPP
}

func (p *simPages) Bytes() []byte                         { return p.mem }
func (p *simPages) Refs() []xen.GrantRef                  { return p.refs }
func (p *simPages) Index() uint64                         { return 0 }
func (p *simPages) NotifyUnmap(int, bool, xen.Port) error { return nil }

// Free gives the pages to the kernel, where others leave in them what they like.
func (p *simPages) Free() error {
	for _, r := range p.refs {
		delete(p.k.refs, r)
	}
	fillPoison(p.mem)
	p.k.free[len(p.refs)] = append(p.k.free[len(p.refs)], p)
	return nil
}

// seqAt is where a frame has its number: in its source address.
const seqAt = tap.VirtioHeaderSize + 7

func putSeq(b []byte, seq uint64) {
	if len(b) >= seqAt+5 {
		for i := range 5 {
			b[seqAt+i] = byte(seq >> (32 - 8*i))
		}
	}
}

func getSeq(frame []byte) (seq uint64) {
	for _, b := range frame[7:12] {
		seq = seq<<8 | uint64(b)
	}
	return seq
}
