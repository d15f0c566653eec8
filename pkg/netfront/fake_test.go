package netfront

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// heapGrants is xen.Grants on Go's heap, where the race detector sees every access.
// The backend's half of a test finds a page by its reference.
type heapGrants struct {
	mu    sync.Mutex
	next  xen.GrantRef
	pages map[xen.GrantRef][]byte
	limit int
}

func newHeapGrants() *heapGrants {
	return &heapGrants{next: 8, pages: map[xen.GrantRef][]byte{}, limit: 1 << 20}
}

func (g *heapGrants) Alloc(_ xen.DomID, n int, _ bool) (xen.Pages, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.pages)+n > g.limit {
		return nil, xen.ErrGrantLimit
	}
	p := &heapPages{g: g, mem: make([]byte, n*xen.PageSize)}
	for i := range n {
		p.refs = append(p.refs, g.next)
		g.pages[g.next] = p.mem[i*xen.PageSize : (i+1)*xen.PageSize]
		g.next++
	}
	return p, nil
}

func (g *heapGrants) page(ref uint32) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pages[xen.GrantRef(ref)]
}

func (g *heapGrants) Limit() (int, error)  { return g.limit, nil }
func (g *heapGrants) RaiseLimit(int) error { return unix.EPERM }
func (g *heapGrants) Left() (int, error)   { return 0, nil }
func (g *heapGrants) Close() error         { return nil }
func (g *heapGrants) Handle() (int, error) { return -1, unix.EOPNOTSUPP }

func (g *heapGrants) Adopt(int) (xen.Grants, error) { return nil, unix.EOPNOTSUPP }

func (g *heapGrants) Remap(uint64, []xen.GrantRef) (xen.Pages, error) {
	return nil, unix.EOPNOTSUPP
}

type heapPages struct {
	g    *heapGrants
	mem  []byte
	refs []xen.GrantRef
}

func (p *heapPages) Bytes() []byte                         { return p.mem }
func (p *heapPages) Refs() []xen.GrantRef                  { return p.refs }
func (p *heapPages) Index() uint64                         { return 0 }
func (p *heapPages) NotifyUnmap(int, bool, xen.Port) error { return nil }
func (p *heapPages) Free() error {
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	for _, r := range p.refs {
		delete(p.g.pages, r)
	}
	return nil
}

// testDMA makes a tag and a slab of n pages on g, and a ring page.
func testDMA(t testing.TB, g xen.Grants, readOnly bool, n int) (*busdma.Tag, *busdma.Slab, []byte) {
	t.Helper()
	pages, err := g.Alloc(0, n, !readOnly)
	if err != nil {
		t.Fatal(err)
	}
	tag, slab, err := newDMA(g, 0, readOnly, pages)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := g.Alloc(0, 1, true)
	if err != nil {
		t.Fatal(err)
	}
	return tag, slab, ring.Bytes()
}

// fifo is a frameReader that hands out queued reads as a TAP does.
type fifo struct {
	frames [][]byte
	reads  []int // len(bufs) of each call
}

func (f *fifo) Read(bufs [][]byte, n []int) (int, error) {
	f.reads = append(f.reads, len(bufs))
	for i := range bufs {
		if len(f.frames) == 0 {
			return i, nil
		}
		n[i] = copy(bufs[i], f.frames[0])
		f.frames = f.frames[1:]
	}
	return len(bufs), nil
}

// sink is a frameWriter that keeps what it is given.
type sink struct {
	frames [][]byte
	fail   int32 // result of each write, if below zero
}

func (s *sink) Write(frames [][]unix.Iovec, res []int32) error {
	for i, iov := range frames {
		var f []byte
		for _, v := range iov {
			f = append(f, unsafeBytes(v)...)
		}
		if s.fail < 0 {
			res[i] = s.fail
			continue
		}
		s.frames = append(s.frames, f)
		res[i] = int32(len(f))
	}
	return nil
}
