package xensim

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

var testVif = VifConfig{Frontend: 1, Backend: 2, DevID: 3, MAC: net.HardwareAddr{0, 0x16, 0x3e, 1, 2, 3}}

func attach(t *testing.T, s *Server, cfg VifConfig) (front, back string) {
	t.Helper()
	if err := AttachVif(t.Context(), s.Toolstack(), cfg); err != nil {
		t.Fatal(err)
	}
	return FrontendPath(cfg.Frontend, cfg.DevID), BackendPath(cfg.Backend, cfg.Frontend, cfg.DevID)
}

// tree reads all nodes below dir.
func tree(t *testing.T, store xenstore.Operations, dir string) map[string]string {
	t.Helper()
	list, err := store.Directory(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[string]string)
	for _, name := range list {
		if m[name], err = store.Read(t.Context(), dir+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func wantTree(t *testing.T, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if w, ok := got[k]; !ok || w != v {
			t.Errorf("%s is %q (%v), want %q", k, w, ok, v)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Errorf("%s is %q, want no such node", k, got[k])
		}
	}
}

func TestAttachedVifHasTheNodesOfARealToolstack(t *testing.T) {
	s := newServer(t, Options{})
	cfg := testVif
	cfg.Rate, cfg.Bridge, cfg.VifName, cfg.Script, cfg.Untrusted, cfg.MTU = "1000,50", "br0", "v", "/s", true, 9000
	front, back := attach(t, s, cfg)
	guest, driver := connect(t, s, 1).Store(), connect(t, s, 2).Store()
	wantTree(t, tree(t, guest, "device/vif/3"), map[string]string{
		"backend": back, "backend-id": "2", "state": "1", "handle": "3",
		"mac": "00:16:3e:01:02:03", "trusted": "0", "mtu": "9000",
	})
	wantTree(t, tree(t, driver, "backend/vif/1/3"), map[string]string{
		"frontend": front, "frontend-id": "1", "online": "1", "state": "1", "script": "/s",
		"mac": "00:16:3e:01:02:03", "handle": "3", "bridge": "br0", "type": "vif", "mtu": "9000",
		"rate": "1000,50", "vifname": "v", "hotplug-status": "",
	})
	tree(t, guest, back)
	tree(t, driver, front)
}

func TestVifsOwnersAreTheirDomains(t *testing.T) {
	s := newServer(t, Options{})
	front, back := attach(t, s, testVif)
	guest, driver, other := connect(t, s, 1).Store(), connect(t, s, 2).Store(), connect(t, s, 3).Store()
	ctx := t.Context()
	denied := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, xenstore.ErrPermission) {
			t.Errorf("%s: %v", what, err)
		}
	}
	allowed := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	allowed("frontend writes its state", guest.Write(ctx, front+"/state", "3"))
	allowed("frontend makes a node", guest.Write(ctx, "device/vif/3/queue-0/tx-ring-ref", "8"))
	_, err := driver.Read(ctx, front+"/queue-0/tx-ring-ref")
	allowed("backend reads it", err)
	allowed("frontend removes it", guest.Remove(ctx, "device/vif/3/queue-0"))
	denied("frontend writes its mtu", guest.Write(ctx, front+"/mtu", "1"))
	denied("frontend makes a vif", guest.Write(ctx, "device/vif/4/state", "1"))
	denied("frontend writes the backend's state", guest.Write(ctx, back+"/state", "3"))
	allowed("backend writes its state", driver.Write(ctx, back+"/state", "2"))
	allowed("backend makes a node", driver.Write(ctx, back+"/feature-sg", "1"))
	denied("backend writes the frontend's state", driver.Write(ctx, front+"/state", "4"))
	_, err = other.Read(ctx, front+"/state")
	denied("a stranger reads", err)
	_, err = other.Directory(ctx, back)
	denied("a stranger lists", err)
	allowed("guest reports an error", guest.Write(ctx, "error/device/vif/3/error", "2 x"))
}

func TestVifIsAttachedOnce(t *testing.T) {
	s := newServer(t, Options{})
	s.FailCommits(2) // which must not be seen
	attach(t, s, testVif)
	if err := AttachVif(t.Context(), s.Toolstack(), testVif); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("attach again: %v", err)
	}
}

func TestDetachWaitsForTheBackend(t *testing.T) {
	_, dir := listening(t)
	toolstack, back := dial(t, dir, 0).Store(), dial(t, dir, 2).Store()
	if err := AttachVif(t.Context(), toolstack, testVif); err != nil {
		t.Fatal(err)
	}
	// A frontend that points elsewhere does not save its device.
	guest := dial(t, dir, 1).Store()
	if err := guest.Write(t.Context(), "device/vif/3/backend", "/nowhere"); err != nil {
		t.Fatal(err)
	}
	watch, err := back.Watch(t.Context(), "backend/vif/1/3/state")
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	detached := make(chan error, 1)
	go func() { detached <- DetachVif(t.Context(), toolstack, 1, 3, 0) }()
	for state := ""; state != "5"; {
		<-watch.Events()
		if state, err = back.Read(t.Context(), "backend/vif/1/3/state"); err != nil {
			t.Fatal(err)
		}
	}
	if online, err := back.Read(t.Context(), "backend/vif/1/3/online"); online != "0" || err != nil {
		t.Fatalf("online %q, %v", online, err)
	}
	select {
	case err := <-detached:
		t.Fatalf("detached before the backend was Closed: %v", err)
	default:
	}
	if err := back.Write(t.Context(), "backend/vif/1/3/state", "6"); err != nil {
		t.Fatal(err)
	}
	if err := <-detached; err != nil {
		t.Fatal(err)
	}
	wantGone(t, toolstack)
	if err := DetachVif(t.Context(), toolstack, 1, 3, 0); !errors.Is(err, xenstore.ErrNotFound) {
		t.Fatalf("detach again: %v", err)
	}
	if err := AttachVif(t.Context(), toolstack, testVif); err != nil {
		t.Fatalf("attach again: %v", err)
	}
}

// wantGone checks that nothing of testVif is left but the domains' homes.
func wantGone(t *testing.T, store xen.Store) {
	t.Helper()
	for dom := range xen.DomID(3) {
		list, err := store.Directory(t.Context(), HomePath(dom))
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(list, "backend") || dom == 1 && slices.Contains(list, "device") {
			t.Errorf("home of %d after detach: %v", dom, list)
		}
	}
	if _, err := store.Directory(t.Context(), "/libxl"); !errors.Is(err, xenstore.ErrNotFound) {
		t.Errorf("the toolstack's record is left: %v", err)
	}
}

func TestDetachForcesABackendThatDoesNotClose(t *testing.T) {
	s := newServer(t, Options{})
	attach(t, s, testVif)
	if err := DetachVif(t.Context(), s.Toolstack(), 1, 3, 20*time.Millisecond); !errors.Is(err, ErrDetachForced) {
		t.Fatalf("detach: %v", err)
	}
	wantGone(t, s.Toolstack())
}

func TestDetachGivesUpWithItsContext(t *testing.T) {
	s := newServer(t, Options{})
	front, _ := attach(t, s, testVif)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := DetachVif(ctx, s.Toolstack(), 1, 3, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("detach: %v", err)
	}
	if _, err := s.Toolstack().Read(t.Context(), front+"/state"); err != nil {
		t.Fatalf("the device is gone: %v", err)
	}
}

func TestDetachAfterTheBackendDomainIsGone(t *testing.T) {
	s := newServer(t, Options{})
	front, _ := attach(t, s, testVif)
	guest := connect(t, s, 1).Store()
	if err := RemoveDomain(t.Context(), s.Toolstack(), 2); err != nil {
		t.Fatal(err)
	}
	if _, err := guest.Read(t.Context(), front+"/state"); err != nil {
		t.Fatalf("the frontend's end went too: %v", err)
	}
	if err := DetachVif(t.Context(), s.Toolstack(), 1, 3, 0); err != nil {
		t.Fatal(err)
	}
}

func TestDeadStoreAnswersWhenItIsRevived(t *testing.T) {
	s := newServer(t, Options{})
	c := connect(t, s, 1)
	s.DeadStore(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Store().Read(ctx, "domid"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("read: %v", err)
	}
	s.DeadStore(false)
	if v, err := c.Store().Read(t.Context(), "domid"); v != "1" || err != nil {
		t.Fatalf("domid %q, %v", v, err)
	}
	s.SlowStore(time.Millisecond)
	if _, err := c.Store().Read(t.Context(), "domid"); err != nil {
		t.Fatal(err)
	}
}

func TestPlainXenstoreSocketIsDomainZeros(t *testing.T) {
	_, dir := listening(t)
	c, err := xenstore.Dial(StoreSocket(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if v, err := c.Read(t.Context(), "domid"); v != "0" || err != nil {
		t.Fatalf("domid %q, %v", v, err)
	}
	if _, err := c.Directory(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
}
