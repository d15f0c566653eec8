package xensim

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

func TestRestoredGuestHasNeitherItsChannelsNorItsGrants(t *testing.T) {
	for name, as := range map[string]xen.DomID{"same number": 1, "another number": 7} {
		t.Run(name, func(t *testing.T) {
			s, dir := listening(t)
			guest, back := dial(t, dir, 1), dial(t, dir, 0)
			e, be := openEvents(t, guest), openEvents(t, back)
			f, b := join(t, e, be)
			p := alloc(t, guest, 0, 2, true)
			p.Bytes()[0] = 9
			m := mapGrant(t, back, 1, p.Refs()[0], true)
			vif := VifConfig{Frontend: 1, DevID: 0}
			attach(t, s, vif)
			w, err := guest.Store().Watch(t.Context(), "device/vif")
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			<-w.Events()

			if err := s.Restore(t.Context(), 1, as, vif); err != nil {
				t.Fatal(err)
			}
			if err := e.Notify(f); !errors.Is(err, unix.EINVAL) {
				t.Errorf("notify of a lost port: %v", err)
			}
			notify(t, be, b) // unbound: harmless
			wantEvents(t, e)
			if _, err := back.MapGrant(as, p.Refs()[0], true); !errors.Is(err, unix.ENOENT) {
				t.Errorf("map what is granted no more: %v", err)
			}
			if m.Live() || p.Bytes()[0] != 9 {
				t.Error("a lost grant is live, or its page has changed")
			}
			if uses := s.LostPortUses(); len(uses) != 1 {
				t.Errorf("uses of lost ports: %q", uses)
			}

			again, err := guest.OpenEvents()
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if port := bind(t, again, 0); port != f {
				t.Errorf("port %d, want %d again: this test needs it", port, f)
			}
			q := alloc(t, guest, 0, 1, true)
			if q.Refs()[0] == p.Refs()[0] || q.Refs()[0] == p.Refs()[1] {
				t.Error("a reference was given out again that was not freed")
			}
			if err := errors.Join(p.Free(), m.Unmap(), q.Free()); err != nil {
				t.Fatal(err)
			}
			if in := s.GrantsInUse(as); len(in) != 0 {
				t.Errorf("in use: %+v", in)
			}
			if err := e.Close(); err != nil { // what a daemon must never do
				t.Fatal(err)
			}
			await.That(t, "the close of a lost port is taken down", func() bool { return len(s.LostPortUses()) == 2 })
		})
	}
}

func TestRestoredGuestFindsItsNewDevice(t *testing.T) {
	for name, as := range map[string]xen.DomID{"same number": 1, "another number": 7} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, Options{})
			guest := connect(t, s, 1).Store()
			vif := VifConfig{Frontend: 1, Backend: 2, DevID: 0}
			attach(t, s, vif)
			if err := guest.Write(t.Context(), "device/vif/0/state", "4"); err != nil {
				t.Fatal(err)
			}
			w, err := guest.Watch(t.Context(), "device/vif")
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			<-w.Events()
			vif.Backend = 3
			if err := s.Restore(t.Context(), 1, as, vif); err != nil {
				t.Fatal(err)
			}
			select {
			case path := <-w.Events():
				if len(path) < len("device/vif") {
					t.Errorf("event for %q", path)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("no event")
			}
			wantTree(t, tree(t, guest, "device/vif/0"), map[string]string{
				"backend": BackendPath(3, as, 0), "backend-id": "3", "state": "1", "handle": "0",
				"mac": "", "trusted": "1", "mtu": "1500",
			})
			if _, err := s.Toolstack().Directory(t.Context(), BackendPath(2, 1, 0)); !errors.Is(err, xenstore.ErrNotFound) {
				t.Errorf("the old backend's end is left: %v", err)
			}
			// A process that starts after the restore does not know of it either.
			late := connect(t, s, 1).Store()
			if err := late.Write(t.Context(), "device/vif/0/state", "3"); err != nil {
				t.Fatal(err)
			}
			if as != 1 {
				if _, err := s.Toolstack().Read(t.Context(), HomePath(1)+"/domid"); !errors.Is(err, xenstore.ErrNotFound) {
					t.Errorf("the old home is left: %v", err)
				}
			}
		})
	}
}

func TestRestoreOfAnotherKindIsRefused(t *testing.T) {
	s := newServer(t, Options{})
	connect(t, s, 1)
	connect(t, s, 2)
	for _, c := range []struct{ dom, as xen.DomID }{{0, 3}, {1, 0}, {1, 2}, {9, 10}, {1, firstReservedDomID}} {
		if err := s.Restore(t.Context(), c.dom, c.as); err == nil {
			t.Errorf("restored %d as %d", c.dom, c.as)
		}
	}
	if v, err := connect(t, s, 1).Store().Read(t.Context(), "domid"); v != "1" || err != nil {
		t.Fatalf("domid %q, %v", v, err)
	}
}
