//go:build !race

package xensim

import (
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// The race detector's own bookkeeping allocates, so this is not for it.

func TestEventsAllocateNothing(t *testing.T) {
	s := newServer(t, Options{})
	front, back := openEvents(t, connect(t, s, 1)), openEvents(t, connect(t, s, 0))
	f, p := join(t, front, back)
	var ports [4]xen.Port
	if n := testing.AllocsPerRun(100, func() {
		back.Notify(p)
		front.Read(ports[:])
		front.Unmask(f)
		front.Read(ports[:])
	}); n != 0 {
		t.Fatalf("%v allocations for each event", n)
	}
}
