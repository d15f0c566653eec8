package netback

import (
	"net"
	"sync/atomic"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// xenbus makes one device of a directory. Two that follow the same one would each take a part
// of the frontend's grants and event channels, and neither would be connected.
func TestDirectoryThatComesBackAtOnceIsOneVif(t *testing.T) {
	const rounds = 200
	var ports atomic.Int32
	r := newRig(t, Options{NewPort: func(VifInfo) (Port, error) {
		ports.Add(1)
		return NewMemoryPort(), nil
	}})
	tools := r.xen.Toolstack()
	for i := range rounds {
		before := r.vif
		r.setState(netif.StateClosed)
		r.check(xensim.DetachVif(r.ctx, tools, guestID, 0, 0))
		r.check(xensim.AttachVif(r.ctx, tools, xensim.VifConfig{
			Frontend: guestID, MAC: net.HardwareAddr{0, 0x16, 0x3e, 1, 2, byte(i)},
		}))
		<-before.Done()
		var err error
		r.vif, err = r.backend.Vif(r.ctx, VifID{Frontend: guestID})
		r.check(err)
		if r.vif == before {
			t.Fatalf("round %d: the vif is the one of before", i)
		}
	}
	r.stop()
	r.stop = nil
	if n := ports.Load(); n != rounds+1 {
		t.Errorf("%d directories, %d vifs", rounds+1, n)
	}
}
