package xenstored

import (
	"slices"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// events takes what a watch of r has heard so far: the server sends the events of a
// request before it answers the next one.
func (r *raw) events() []string {
	r.t.Helper()
	var list []string
	r.send(xenstore.Header{Type: xenstore.TypeRead, Request: 99}, "/\x00")
	for {
		h, payload := r.receive()
		if h.Type != xenstore.TypeWatchEvent {
			return list
		}
		path, token, err := xenstore.ParseWatchEvent([]byte(payload))
		if err != nil || h.Request != 0 || h.Transaction != 0 {
			r.t.Fatalf("event %+v %q: %v", h, payload, err)
		}
		list = append(list, token+" "+path)
	}
}

func (r *raw) wantEvents(what string, want ...string) {
	r.t.Helper()
	got := r.events()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		r.t.Fatalf("%s: %q, want %q", what, got, want)
	}
}

// watch registers watches and takes their first events.
func (r *raw) watch(paths ...string) {
	r.t.Helper()
	for i, path := range paths {
		r.want(xenstore.TypeWatch, 0, path+"\x00"+string(rune('a'+i))+"\x00", ok)
		if h, _ := r.receive(); h.Type != xenstore.TypeWatchEvent {
			r.t.Fatalf("%v instead of the first event", h.Type)
		}
	}
}

func TestWatchHearsOfItsNodeAndWhatIsBelow(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	write(t, c, "/d/x/y/z", "1")
	r := newRaw(t, s, 0)
	r.watch("/d/x", "/d/x/y/z", "/d/xx", "/")
	write(t, c, "/d/x/y/z", "2")
	r.wantEvents("write", "a /d/x/y/z", "b /d/x/y/z", "d /d/x/y/z")
	write(t, c, "/d/x", "2")
	r.wantEvents("write above", "a /d/x", "d /d/x")
	write(t, c, "/d", "2")
	r.wantEvents("write further above", "d /d")
	write(t, c, "/d/xx/new", "2")
	r.wantEvents("make what is watched on the way", "c /d/xx/new", "d /d/xx/new")
	if err := c.SetPermissions(t.Context(), "/d/x", []xenstore.Permission{{Domain: 0}}); err != nil {
		t.Fatal(err)
	}
	r.wantEvents("permissions", "a /d/x", "d /d/x")
	mkdir(t, c, "/d/x")
	r.wantEvents("mkdir of what exists")
	if err := c.Remove(t.Context(), "/d"); err != nil {
		t.Fatal(err)
	}
	r.wantEvents("remove above", "a /d/x", "b /d/x/y/z", "c /d/xx", "d /d")
	if err := c.Remove(t.Context(), "/d"); err != nil {
		t.Fatal(err)
	}
	r.wantEvents("remove of nothing")
}

func TestWatchOfARelativePathHearsRelativePaths(t *testing.T) {
	s := newServer(t, Options{})
	dom0 := client(t, s, 0)
	guest(t, s, dom0, 1)
	r := newRaw(t, s, 1)
	r.watch("device/vif", "/local/domain/1/device")
	write(t, dom0, "/local/domain/1/device/vif/0/state", "1")
	// Domain 0 made the node, but it inherits the owner of the home.
	r.wantEvents("write", "a device/vif/0/state", "b /local/domain/1/device/vif/0/state")
}

func TestWatchHearsNothingThatItsDomainMayNotRead(t *testing.T) {
	s := newServer(t, Options{})
	dom0 := client(t, s, 0)
	guest(t, s, dom0, 1)
	guest(t, s, dom0, 2)
	r := newRaw(t, s, 1)
	r.watch("/")
	write(t, dom0, "/local/domain/2/secret", "1")
	write(t, dom0, "/local/domain/1/mine", "1")
	r.wantEvents("writes", "a /local/domain/1/mine")
	if err := dom0.SetPermissions(t.Context(), "/local/domain/2/secret", []xenstore.Permission{{Domain: 2}, {Domain: 1, Read: true}}); err != nil {
		t.Fatal(err)
	}
	r.wantEvents("allowed", "a /local/domain/2/secret")
	if err := dom0.Remove(t.Context(), "/local/domain/2/secret"); err != nil {
		t.Fatal(err)
	}
	r.wantEvents("removed", "a /local/domain/2/secret")
}

func TestWatchHearsOfATransactionAtItsCommit(t *testing.T) {
	s := newServer(t, Options{})
	r, w := newRaw(t, s, 0), newRaw(t, s, 0)
	r.watch("/d")
	for _, c := range []struct {
		end  string
		want []string
	}{{"F\x00", nil}, {"T\x00", []string{"a /d/x", "a /d/y"}}} {
		tx := w.begin()
		w.want(xenstore.TypeWrite, tx, "/d/x\x001", ok)
		w.want(xenstore.TypeWrite, tx, "/d/y\x001", ok)
		r.wantEvents("before the end")
		w.want(xenstore.TypeTransactionEnd, tx, c.end, ok)
		r.wantEvents("after the end", c.want...)
	}
}

func TestWatchFiresOnceAtTheBeginning(t *testing.T) {
	for _, before := range []bool{false, true} {
		s := newServer(t, Options{EventBeforeAck: before})
		r := newRaw(t, s, 0)
		r.send(xenstore.Header{Type: xenstore.TypeWatch, Request: 5}, "/missing\x00t\x00")
		var types []xenstore.MessageType
		for range 2 {
			h, _ := r.receive()
			types = append(types, h.Type)
		}
		want := []xenstore.MessageType{xenstore.TypeWatch, xenstore.TypeWatchEvent}
		if before {
			slices.Reverse(want)
		}
		if !slices.Equal(types, want) {
			t.Errorf("event before ack %v: got %v", before, types)
		}
		r.wantEvents("more")
	}
}

func TestWatchEndsWithUnwatch(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	r := newRaw(t, s, 0)
	r.watch("/a")
	r.want(xenstore.TypeWatch, 0, "/a\x00a\x00", "EEXIST\x00")
	r.want(xenstore.TypeUnwatch, 0, "/a\x00b\x00", "ENOENT\x00")
	r.want(xenstore.TypeUnwatch, 0, "/a\x00a\x00", ok)
	write(t, c, "/a", "1")
	r.wantEvents("after unwatch")
	r.watch("/a", "@introduceDomain")
	r.want(xenstore.TypeResetWatches, 0, "\x00", ok)
	write(t, c, "/a", "1")
	r.wantEvents("after reset")
	newRaw(t, s, 1).want(xenstore.TypeWatch, 0, "@introduceDomain\x00t\x00", "EACCES\x00")
}

func TestClientHearsOfChangesThroughItsWatch(t *testing.T) {
	for _, before := range []bool{false, true} {
		s := newServer(t, Options{EventBeforeAck: before})
		a, b := client(t, s, 0), client(t, s, 0)
		w, err := a.Watch(t.Context(), "/d")
		if err != nil {
			t.Fatal(err)
		}
		next := func() string {
			select {
			case path := <-w.Events():
				return path
			case <-time.After(5 * time.Second):
				t.Fatal("no event")
				return ""
			}
		}
		if p := next(); p != "/d" {
			t.Fatalf("first event %q", p)
		}
		write(t, b, "/d/x", "1")
		if p := next(); p != "/d/x" {
			t.Fatalf("event %q", p)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
