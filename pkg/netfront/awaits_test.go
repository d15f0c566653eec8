package netfront

import (
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// newVif waits for the backend's part of the vif that was attached last.
func (w *world) newVif() *netback.Vif {
	w.t.Helper()
	v, err := w.back.Vif(w.deadline(), netback.VifID{Frontend: guestDom, Device: w.config.vif.DevID})
	w.check(err)
	return v
}

// wantAwaits waits until status and log say what the backend lacks.
func (w *world) wantAwaits(logs *observer.ObservedLogs, what string) {
	w.t.Helper()
	w.eventually("what is waited for to be said", func() bool { return w.dev.Status().Awaits != "" })
	if s := w.dev.Status().Awaits; s != what {
		w.t.Errorf("status awaits\n%q, want\n%q", s, what)
	}
	said := logs.FilterMessage("waiting for the backend").FilterField(zap.String("awaits", what))
	if said.Len() != 1 {
		w.t.Errorf("said %d times: %v", said.Len(), logs.All())
	}
}

func TestBackendThatRemovesItsDirectoryWhenTheFrontendClosesIsWaitedForAloud(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	w := newWorld(t, worldConfig{back: netback.Options{RemoveOnClose: true}, front: Config{Logger: zap.New(core)}})
	w.connected(1)
	w.stop(nil)
	if err := <-w.ran; err != nil {
		t.Fatal(err)
	}
	w.check(w.dev.Close())
	w.check(w.front.Close())
	w.begin()
	dir := xensim.BackendPath(driverDom, guestDom, 0)
	w.wantAwaits(logs, dir+" in domain 2 is gone: the toolstack has to attach the vif anew")

	w.check(xensim.DetachVif(w.deadline(), w.server.Toolstack(), guestDom, 0, 0))
	w.check(xensim.AttachVif(w.deadline(), w.server.Toolstack(), w.config.vif))
	w.vif = w.newVif()
	w.connected(1)
	if s := w.dev.Status(); s.Awaits != "" {
		t.Errorf("it still awaits %q", s.Awaits)
	}
	unix.Close(w.sock) // of the TAP before
	w.openSocket()
	w.exchange(3, 0)
}

func TestBackendThatNobodyServesIsWaitedForAloud(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	w := newWorld(t, worldConfig{offline: true, front: Config{Logger: zap.New(core)}})
	dir := xensim.BackendPath(driverDom, guestDom, 0)
	w.wantAwaits(logs, dir+" in domain 2 is Initialising: no driver there has taken it up")
	w.backend(worldConfig{})
	w.connected(1)
}

func TestHotplugScriptThatDoesNotEndIsNamed(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	w := newWorld(t, worldConfig{
		back: netback.Options{HotplugDelay: -1}, vif: xensim.VifConfig{Script: "vif-bridge"}, front: Config{Logger: zap.New(core)},
	})
	dir := xensim.BackendPath(driverDom, guestDom, 0)
	w.wantAwaits(logs, dir+" in domain 2 is InitWait and has not taken up the rings: is its hotplug script done?")
	w.check(w.server.Toolstack().Write(w.deadline(), dir+"/"+netif.KeyHotplugStatus, "connected"))
	w.connected(1)
	if s := w.dev.Status(); s.Awaits != "" || strings.Contains(s.Reason, "hotplug") {
		t.Errorf("%+v", s)
	}
}
