package netback

import (
	"sync"
	"sync/atomic"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// mcastMax is how many multicast addresses a frontend may ask for
// (XEN_NETBK_MCAST_MAX).
const mcastMax = 64

// mcastFilter is the vif's list of multicast addresses that the frontend wants.
// Every queue's tx worker changes it and every rx worker asks it.
type mcastFilter struct {
	on   atomic.Bool // request-multicast-control
	mu   sync.Mutex
	list [][6]byte
}

// apply does what an extra of a tx request asks, and returns the response's status.
func (m *mcastFilter) apply(e netif.Extra) int16 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.Type == netif.ExtraMcastAdd {
		if len(m.list) == mcastMax {
			return netif.StatusError
		}
		m.list = append(m.list, e.Mcast())
		return netif.StatusOkay
	}
	for i, a := range m.list {
		if a == e.Mcast() {
			m.list = append(m.list[:i], m.list[i+1:]...)
			break
		}
	}
	return netif.StatusOkay
}

// passes tells whether a frame for the destination address goes to the guest.
func (m *mcastFilter) passes(dst []byte) bool {
	if !m.on.Load() || len(dst) < 6 || dst[0]&1 == 0 || [6]byte(dst) == [6]byte{255, 255, 255, 255, 255, 255} {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.list {
		if a == [6]byte(dst) {
			return true
		}
	}
	return false
}

func (m *mcastFilter) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = nil
}
