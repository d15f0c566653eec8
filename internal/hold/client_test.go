package hold

import (
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
)

func TestFetchedDescriptorsAreTheOnesThatWerePut(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	c := dial(t, path)
	a, b := memfd(t, "first"), memfd(t, "second")
	must(t, c.Put(t.Context(), Bundle{Key: "vif/0/connection", Label: "{\"n\":1}\x00\xff", Files: []File{{"a", a}, {"b", b}}}))
	for range 3 { // the holder keeps its own
		got, err := dial(t, path).Get(t.Context(), "vif/0/connection")
		must(t, err)
		if got.Key != "vif/0/connection" || got.Label != "{\"n\":1}\x00\xff" || got.Parked != "" || len(got.Files) != 2 {
			t.Errorf("got %+v", got)
		}
		wantSame(t, got.Files[1].FD, b)
		fd, ok := got.Take("a")
		if _, again := got.Take("a"); !ok || again {
			t.Errorf("take: %v, then %v", ok, again)
		}
		must(t, got.Close())
		wantSame(t, fd, a) // open after Close
		closeAll([]int{fd})
	}
}

func TestPutClosesWhatItReplaces(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	c := dial(t, path)
	old, next := newCanary(t), newCanary(t)
	must(t, c.Put(t.Context(), old.bundle("k")))
	must(t, c.Put(t.Context(), next.bundle("k")))
	old.wantClosed()
	next.letGo()
	next.wantOpen()
	must(t, c.Drop(t.Context(), "k"))
	next.wantClosed()
}

func TestDropIsDoneWhenThereIsNothingAndGetIsNot(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	c := dial(t, path)
	must(t, c.Drop(t.Context(), "none"))
	_, err := c.Get(t.Context(), "none")
	wantError(t, err, ErrNotFound, "get none")
	_, err = c.GetParked(t.Context(), "none")
	wantError(t, err, ErrNotFound, "get none")
	_, err = c.Park(t.Context(), "none")
	wantError(t, err, ErrNotFound, "park none")
}

func TestParkedBundleOutlivesItsKey(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	c := dial(t, path)
	poison := newCanary(t)
	b := poison.bundle("k")
	b.Label = "old"
	must(t, c.Put(t.Context(), b))
	id, err := c.Park(t.Context(), "k")
	must(t, err)
	_, err = c.Get(t.Context(), "k")
	wantError(t, err, ErrNotFound, "")
	next := newCanary(t)
	must(t, c.Put(t.Context(), next.bundle("k")))
	must(t, c.Put(t.Context(), next.bundle(id)))
	must(t, c.Drop(t.Context(), "k"))
	must(t, c.Drop(t.Context(), id))
	next.wantClosed()

	// Parking it again is for a client that had no answer.
	must(t, c.parkAs(t.Context(), "k", id))
	again := newCanary(t)
	b = again.bundle("k")
	b.Parked = id
	must(t, c.Put(t.Context(), b))
	again.wantClosed()

	got, err := c.GetParked(t.Context(), id)
	must(t, err)
	wantSame(t, got.Files[0].FD, poison.fd)
	if got.Label != "old" || got.Parked != id || got.Key != "k" {
		t.Errorf("got %+v", got)
	}
	must(t, got.Close())
	poison.letGo()
	poison.wantOpen()
}

func TestListNamesLiveAndParkedBundles(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	c := dial(t, path)
	if l, err := c.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("%v, %v of an empty holder", l, err)
	}
	fd := memfd(t, "")
	must(t, c.Put(t.Context(), Bundle{Key: "k", Label: "1", Files: []File{{"x", fd}, {"y", fd}}}))
	must(t, c.Put(t.Context(), Bundle{Key: "k", Label: "2", Parked: "P", Files: []File{{"z", fd}}}))
	l, err := c.List(t.Context())
	must(t, err)
	want := []Entry{{"k", "1", "", []string{"x", "y"}}, {"k", "2", "P", []string{"z"}}}
	if !reflect.DeepEqual(l, want) {
		t.Errorf("got %+v, want %+v", l, want)
	}
}

func TestBundleMayHaveAsManyDescriptorsAsSaidAndNone(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	c := dial(t, path)
	fd := memfd(t, "")
	full := Bundle{Key: "full"}
	for i := range MaxFiles {
		full.Files = append(full.Files, File{fmt.Sprint(i), fd})
	}
	for _, b := range []Bundle{full, {Key: "empty", Label: "label"}} {
		must(t, c.Put(t.Context(), b))
		got, err := c.Get(t.Context(), b.Key)
		must(t, err)
		if len(got.Files) != len(b.Files) || got.Label != b.Label {
			t.Errorf("%s came back as %s with %d descriptors", b.Key, got.Label, len(got.Files))
		}
		must(t, got.Close())
	}
	full.Files = append(full.Files, File{"one more", fd})
	if err := c.Put(t.Context(), full); err == nil {
		t.Error("more than MaxFiles were put")
	}
	if err := c.Put(t.Context(), Bundle{Key: "closed", Files: []File{{"x", 9999}}}); err == nil {
		t.Error("a descriptor that is not open was put")
	}
	must(t, c.Drop(t.Context(), "still-connected"))
}

func TestReadersSeeBundlesOnlyWhole(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	var group sync.WaitGroup
	b, err := numbered(0)
	must(t, err)
	must(t, dial(t, path).Put(t.Context(), *b))
	must(t, b.Close())
	shared := dial(t, path)
	for w := range 4 {
		own := shared // two of them on one connection
		if w >= 2 {
			own = dial(t, path)
		}
		group.Go(func() {
			for i := range 50 {
				if w%2 == 0 {
					b, err := numbered(1 + 4*i + w)
					if err != nil {
						t.Error(err)
						return
					}
					if err := own.Put(t.Context(), *b); err != nil {
						t.Error(err)
					}
					b.Close()
				} else if got, err := own.Get(t.Context(), "numbered"); err != nil {
					t.Error(err)
				} else {
					wantWhole(t, got)
				}
			}
		})
	}
	group.Wait()
}

func TestDroppedWhileFetchedComesWhole(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	a, b := dial(t, path), dial(t, path)
	fd := memfd(t, "text")
	for range 200 {
		must(t, a.Put(t.Context(), Bundle{Key: "k", Files: []File{{"x", fd}}}))
		var group sync.WaitGroup
		group.Go(func() {
			if got, err := b.Get(t.Context(), "k"); err == nil {
				if text := content(t, got.Files[0].FD); text != "text" {
					t.Errorf("got %q", text)
				}
				got.Close()
			}
		})
		must(t, a.Drop(t.Context(), "k"))
		group.Wait()
	}
}

// fakeHolder answers a greeting with g.
func fakeHolder(t *testing.T, g []byte) string {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			receive(conn, make([]byte, greetingSpace))
			send(conn, g, nil)
			conn.Close()
		}
	}()
	return path
}

func TestClientRefusesAHolderOfAnotherVersion(t *testing.T) {
	_, err := Dial(t.Context(), fakeHolder(t, greeting{version: 7, reason: "whatever"}.encode()))
	wantError(t, err, ErrVersion, "the holder has 7, this program 1")
	_, err = Dial(t.Context(), fakeHolder(t, greeting{version: Version, reason: "go away"}.encode()))
	wantError(t, err, ErrRefused, "go away")
	_, err = Dial(t.Context(), fakeHolder(t, []byte("220 smtp")))
	wantError(t, err, errNoGreeting, "no holder")
	_, err = Dial(t.Context(), filepath.Join(t.TempDir(), "none"))
	wantError(t, err, ErrUnavailable, "no such file")
}

func TestClientOfAHolderThatHangsIsNotHeldUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	must(t, err)
	defer l.Close()
	_, err = Dial(t.Context(), path) // in the queue for ever
	wantError(t, err, ErrUnavailable, "timeout")
}
