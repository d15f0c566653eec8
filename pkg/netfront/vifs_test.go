package netfront

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// A toolstack gives a vif that it attaches again the number after the largest one in
// use, so a guest with several vifs gets it back under another number.
func TestVifThatComesBackUnderAnotherNumberHasTheSameTAP(t *testing.T) {
	locate := func(ctx context.Context, s xen.Store) (int, error) {
		vifs, err := Vifs(ctx, s)
		for _, v := range vifs {
			if v.MAC.String() == guestMAC.String() {
				return v.DevID, nil
			}
		}
		if err == nil {
			err = ErrNoVif
		}
		return 0, err
	}
	w := newWorld(t, worldConfig{front: Config{Locate: locate, Features: AllFeatures()}})
	w.connected(1)
	index := w.dev.Status().IfIndex
	other := net.HardwareAddr{0, 0x16, 0x3e, 9, 9, 9}
	for i := range 4 {
		w.check(xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, i, 10*time.Second))
		// One that is not ours has our number.
		w.check(xensim.AttachVif(w.deadline(), w.server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: driverDom, DevID: i, MAC: other}))
		w.check(xensim.AttachVif(w.deadline(), w.server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: driverDom, DevID: i + 1, MAC: guestMAC}))
		w.eventually("the next connection", func() bool { return w.dev.Status().Connects == uint64(i)+2 && w.dev.Status().State == "Connected" })
		if s := w.dev.Status(); s.IfIndex != index || s.DevID != i+1 {
			t.Errorf("ifindex %d of vif %d, want %d of vif %d", s.IfIndex, s.DevID, index, i+1)
		}
	}
	w.vif = nil
}

func TestVifsAreThoseWithABackend(t *testing.T) {
	w := newWorld(t, worldConfig{offline: true})
	s := w.server.Toolstack()
	dir := xensim.HomePath(guestDom) + "/" + vifDir
	w.check(s.Write(w.deadline(), dir+"/7/state", "1")) // being made or removed
	w.check(s.Write(w.deadline(), dir+"/eth", ""))
	w.check(xensim.AttachVif(w.deadline(), s, xensim.VifConfig{Frontend: guestDom, Backend: driverDom, DevID: 10, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}))
	w.check(s.Write(w.deadline(), dir+"/10/mac", "what"))
	conn, err := w.server.Connect(guestDom)
	w.check(err)
	defer conn.Close()
	vifs, err := Vifs(w.deadline(), conn.Store())
	w.check(err)
	if len(vifs) != 2 || vifs[0].DevID != 0 || vifs[0].MAC.String() != guestMAC.String() || vifs[1].DevID != 10 || vifs[1].MAC != nil {
		t.Errorf("%+v", vifs)
	}
}

// The toolstack removes the vif when its frontend has closed it, and waits ten seconds
// for that.
func TestVifThatIsDetachedBeforeItsBackendIsReadyIsClosed(t *testing.T) {
	w := newWorld(t, worldConfig{offline: true})
	s := w.server.Toolstack()
	state := func() string {
		st, err := s.Read(w.deadline(), xensim.FrontendPath(guestDom, 0)+"/state")
		w.check(err)
		return st
	}
	w.eventually("the vif to wait", func() bool { return w.dev.Status().BackendState == "Initialising" })
	back := xensim.BackendPath(driverDom, guestDom, 0)
	w.check(s.Write(w.deadline(), back+"/online", "0"))
	w.check(s.Write(w.deadline(), back+"/state", "5"))
	w.eventually("Closed", func() bool { return state() == "6" })
}

// A backend that connects at the moment at which the toolstack detaches the vif writes
// Connected over Closing.
func TestVifThatIsDetachedWhileItsBackendConnectsIsKept(t *testing.T) {
	w := silentBackend(t)
	back := xensim.BackendPath(driverDom, guestDom, 0)
	w.check(w.server.Toolstack().Write(w.deadline(), back+"/online", "0"))
	w.check(w.server.Toolstack().Write(w.deadline(), back+"/state", "4"))
	w.eventually("the end of the connection", func() bool { return w.dev.Status().Ended["detached"] > 0 })
	if n := w.dev.Status().Connects; n != 0 {
		t.Errorf("%d connections to a backend that is to go", n)
	}
}
