package netfront

import "fmt"

// freshness watches over the first frames of a connection: a state of Connected is
// not proof that the backend listens.
type freshness struct {
	pairs  []*pair
	from   []uint32 // per pair: the request at which the backend begins
	strike []int    // per pair: looks at which nothing had been touched; -1 when it is alive
}

// newFreshness watches from now on. A backend begins where the responses end: at the
// first request, or after a rebind behind the last one answered.
func newFreshness(pairs []*pair) *freshness {
	f := &freshness{pairs: pairs, from: make([]uint32, len(pairs)), strike: make([]int, len(pairs))}
	for i, p := range pairs {
		f.from[i] = p.tx.ring.Header().RspProd
	}
	return f
}

// check looks at each pair whose backend has not shown itself. A request that was
// there at one look and is untouched at the next gets a kick; at the one after that
// the connection is given up. Alive says that all have shown themselves.
func (f *freshness) check() (alive bool, err error) {
	alive = true
	for i, p := range f.pairs {
		switch {
		case f.strike[i] < 0:
			continue
		case p.tx.ring.BackendSeen(f.from[i] + 1):
			f.strike[i] = -1
			continue
		}
		alive = false
		if p.tx.requests.Load() == f.from[i] {
			continue
		}
		f.strike[i]++
		switch f.strike[i] {
		case 2:
			p.workers[0].tell(controlKick)
		case 3:
			return false, fmt.Errorf("queue %d: %w", p.number, errNoProgress)
		}
	}
	return alive, nil
}
