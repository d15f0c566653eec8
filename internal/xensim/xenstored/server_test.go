package xenstored

import (
	"bufio"
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

func newServer(t *testing.T, opts Options) *Server {
	t.Helper()
	s := New(opts)
	t.Cleanup(s.Close)
	return s
}

// stream connects dom and returns its side of the stream.
func stream(t *testing.T, s *Server, dom uint16) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ours, dom)
	}()
	t.Cleanup(func() {
		theirs.Close()
		<-done
	})
	return theirs
}

func client(t *testing.T, s *Server, dom uint16) *xenstore.Client {
	t.Helper()
	c := xenstore.New(stream(t, s, dom))
	t.Cleanup(func() { c.Close() })
	return c
}

// guest makes a home that dom owns, and connects it.
func guest(t *testing.T, s *Server, toolstack *xenstore.Client, dom uint16) *xenstore.Client {
	t.Helper()
	mkdir(t, toolstack, home(dom), xenstore.Permission{Domain: dom})
	return client(t, s, dom)
}

func mkdir(t *testing.T, c xenstore.Operations, path string, perms ...xenstore.Permission) {
	t.Helper()
	err := c.Mkdir(t.Context(), path)
	if err == nil && len(perms) > 0 {
		err = c.SetPermissions(t.Context(), path, perms)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, c xenstore.Operations, path, value string) {
	t.Helper()
	if err := c.Write(t.Context(), path, value); err != nil {
		t.Fatal(err)
	}
}

func wantValue(t *testing.T, c xenstore.Operations, path, want string) {
	t.Helper()
	if got, err := c.Read(t.Context(), path); got != want || err != nil {
		t.Fatalf("read %s: %q, %v; want %q", path, got, err, want)
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v, want %v", what, err, want)
	}
}

// raw speaks xs_wire by hand.
type raw struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func newRaw(t *testing.T, s *Server, dom uint16) *raw {
	conn := stream(t, s, dom)
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return &raw{t, conn, bufio.NewReader(conn)}
}

func (r *raw) send(h xenstore.Header, payload string) {
	r.t.Helper()
	if _, err := r.conn.Write(xenstore.AppendMessage(nil, h, []byte(payload))); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) receive() (xenstore.Header, string) {
	r.t.Helper()
	h, payload, err := xenstore.ReadMessage(r.r)
	if err != nil {
		r.t.Fatal(err)
	}
	return h, string(payload)
}

func (r *raw) call(typ xenstore.MessageType, tx uint32, payload string) (xenstore.Header, string) {
	r.t.Helper()
	r.send(xenstore.Header{Type: typ, Request: 77, Transaction: tx}, payload)
	return r.receive()
}

func (r *raw) want(typ xenstore.MessageType, tx uint32, payload, want string) {
	r.t.Helper()
	h, got := r.call(typ, tx, payload)
	wantType := typ
	if want != "" && want[0] == 'E' && want[len(want)-1] == 0 {
		wantType = xenstore.TypeError
	}
	if got != want || h.Type != wantType || h.Request != 77 || h.Transaction != tx {
		r.t.Fatalf("%v %q in %d: %+v %q, want %q", typ, payload, tx, h, got, want)
	}
}

func TestNodesAreReadAsTheyWereWritten(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	write(t, c, "/a/b/c", "1\x00\xff")
	wantValue(t, c, "/a/b/c", "1\x00\xff")
	wantValue(t, c, "/a/b", "")
	write(t, c, "/a/b/c", "")
	wantValue(t, c, "/a/b/c", "")
	write(t, c, "/a/x", "2")
	mkdir(t, c, "/a/x")
	wantValue(t, c, "/a/x", "2")
	if list, err := c.Directory(t.Context(), "/a"); !slices.Equal(list, []string{"b", "x"}) || err != nil {
		t.Fatal(list, err)
	}
	if err := c.Remove(t.Context(), "/a/b"); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(t.Context(), "/a/b/c")
	wantError(t, "read below what was removed", err, xenstore.ErrNotFound)
	if err := c.Remove(t.Context(), "/a/b"); err != nil {
		t.Fatalf("remove again: %v", err)
	}
	wantError(t, "remove in nothing", c.Remove(t.Context(), "/a/b/c"), xenstore.ErrNotFound)
	wantError(t, "remove the root", c.Remove(t.Context(), "/"), xenstore.ErrInvalid)
	checkTree(t, s)
}

func TestRelativePathsAreInTheDomainsHome(t *testing.T) {
	s := newServer(t, Options{})
	dom0 := client(t, s, 0)
	c := guest(t, s, dom0, 5)
	write(t, c, "data/x", "1")
	wantValue(t, dom0, "/local/domain/5/data/x", "1")
	r := newRaw(t, s, 5)
	r.want(xenstore.TypeGetDomainPath, 0, "5\x00", "/local/domain/5\x00")
	r.want(xenstore.TypeIsDomainIntroduced, 0, "5\x00", "T\x00")
	r.want(xenstore.TypeIsDomainIntroduced, 0, "6\x00", "F\x00")
	r.want(xenstore.TypeGetDomainPath, 0, "x\x00", "EINVAL\x00")
}

func TestRequestsThatAreWrongAreRefused(t *testing.T) {
	s := newServer(t, Options{})
	r := newRaw(t, s, 0)
	for _, c := range []struct {
		typ           xenstore.MessageType
		payload, want string
	}{
		{xenstore.TypeRead, "/a", "EINVAL\x00"},
		{xenstore.TypeRead, "", "EINVAL\x00"},
		{xenstore.TypeRead, "/a//b\x00", "EINVAL\x00"},
		{xenstore.TypeRead, "/a\x00x\x00", "EINVAL\x00"},
		{xenstore.TypeRead, "@introduceDomain\x00", "EINVAL\x00"},
		{xenstore.TypeWrite, "/a", "EINVAL\x00"},
		{xenstore.TypeSetPermissions, "/\x00", "EINVAL\x00"},
		{xenstore.TypeSetPermissions, "/\x00x5\x00", "EINVAL\x00"},
		{xenstore.TypeWatch, "/a\x00", "EINVAL\x00"},
		{xenstore.TypeUnwatch, "/a\x00t\x00", "ENOENT\x00"},
		{xenstore.TypeTransactionEnd, "T\x00", "ENOENT\x00"},
		{xenstore.TypeTransactionEnd, "X\x00", "EINVAL\x00"},
		{xenstore.TypeDirectoryPart, "/\x00", "EINVAL\x00"},
		{xenstore.TypeDirectoryPart, "/\x00-1\x00", "EINVAL\x00"},
		{xenstore.TypeControl, "live-update\x00", "ENOSYS\x00"},
		{xenstore.TypeWatchEvent, "/a\x00t\x00", "ENOSYS\x00"},
		{99, "", "ENOSYS\x00"},
	} {
		r.want(c.typ, 0, c.payload, c.want)
	}
	r.want(xenstore.TypeRead, 12, "/\x00", "ENOENT\x00") // no such transaction
	r.want(xenstore.TypeTransactionStart, 0, "\x00", "1\x00")
	r.want(xenstore.TypeTransactionStart, 1, "\x00", "EBUSY\x00")
	r.want(xenstore.TypeTransactionEnd, 1, "T\x00", xenstore.Acknowledgement)
	r.want(xenstore.TypeTransactionEnd, 1, "T\x00", "ENOENT\x00")
	r.want(xenstore.TypeRead, 0, "/\x00", "")
}

func TestPermissionsAreEnforced(t *testing.T) {
	s := newServer(t, Options{})
	dom0 := client(t, s, 0)
	one, two := guest(t, s, dom0, 1), guest(t, s, dom0, 2)
	ctx := t.Context()
	node := home(1) + "/node"
	write(t, one, node, "v")

	_, err := two.Read(ctx, node)
	wantError(t, "read", err, xenstore.ErrPermission)
	_, err = two.Read(ctx, home(1)+"/missing")
	wantError(t, "read what is missing where nothing may be read", err, xenstore.ErrPermission)
	_, err = one.Read(ctx, "missing")
	wantError(t, "read what is missing", err, xenstore.ErrNotFound)
	_, err = two.Read(ctx, "/elsewhere")
	wantError(t, "read what is missing at the root", err, xenstore.ErrPermission)

	set := func(p ...xenstore.Permission) {
		t.Helper()
		if err := one.SetPermissions(ctx, node, p); err != nil {
			t.Fatal(err)
		}
	}
	set(xenstore.Permission{Domain: 1}, xenstore.Permission{Domain: 2, Read: true})
	wantValue(t, two, node, "v")
	wantError(t, "write what is readable", two.Write(ctx, node, "w"), xenstore.ErrPermission)
	wantError(t, "mkdir what is readable", two.Mkdir(ctx, node), xenstore.ErrPermission)
	wantError(t, "remove what is readable", two.Remove(ctx, node), xenstore.ErrPermission)
	set(xenstore.Permission{Domain: 1}, xenstore.Permission{Domain: 2, Write: true})
	write(t, two, node, "w")
	_, err = two.Read(ctx, node)
	wantError(t, "read what is writable", err, xenstore.ErrPermission)
	wantError(t, "permissions of another's node",
		two.SetPermissions(ctx, node, []xenstore.Permission{{Domain: 2}}), xenstore.ErrPermission)
	set(xenstore.Permission{Domain: 1, Read: true, Write: true}, xenstore.Permission{Domain: 2})
	_, err = two.Read(ctx, node)
	wantError(t, "read with an entry of one's own that says no", err, xenstore.ErrPermission)
	wantError(t, "give a node away",
		one.SetPermissions(ctx, node, []xenstore.Permission{{Domain: 2}}), xenstore.ErrNotPermitted)

	// What two makes in a node of one's belongs to two.
	set(xenstore.Permission{Domain: 1}, xenstore.Permission{Domain: 2, Read: true, Write: true})
	write(t, two, node+"/x/y", "1")
	perms, err := dom0.Permissions(ctx, node+"/x/y")
	want := []xenstore.Permission{{Domain: 2}, {Domain: 2, Read: true, Write: true}}
	if !slices.Equal(perms, want) || err != nil {
		t.Fatalf("permissions %v, %v; want %v", perms, err, want)
	}
	_, err = one.Read(ctx, node+"/x/y")
	wantError(t, "read another's node in one's own", err, xenstore.ErrPermission)
	write(t, dom0, node+"/x/y", "0")
	if err := one.Remove(ctx, node); err != nil {
		t.Fatalf("remove one's own node with another's in it: %v", err)
	}
	checkTree(t, s)
}

func TestQuotasEndInTheErrorsThatTheyAreKnownBy(t *testing.T) {
	s := newServer(t, Options{})
	dom0 := client(t, s, 0)
	c := guest(t, s, dom0, 1)
	ctx := t.Context()
	big := string(make([]byte, quotaNodeBytes))
	wantError(t, "write too much", c.Write(ctx, "x", big), xenstore.ErrNoSpace)
	write(t, dom0, "/x", big)
	var last error
	n := s.owned[1]
	err := c.Update(ctx, func(tx xenstore.Operations) error {
		for i := range quotaNodes {
			if last = tx.Mkdir(ctx, "d"+string(rune('a'+i/100))+"/"+string(rune('a'+i/26%26))+string(rune('a'+i%26))); last != nil {
				return nil
			}
			n = i
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "make too many nodes", last, xenstore.ErrNoSpace)
	if owned := s.owned[1]; owned != quotaNodes {
		t.Fatalf("%d nodes after %d calls, want %d", owned, n, quotaNodes)
	}
	wantError(t, "make one more", c.Mkdir(ctx, "more"), xenstore.ErrNoSpace)
	if err := c.Remove(ctx, "da"); err != nil {
		t.Fatal(err)
	}
	mkdir(t, c, "more")
	checkTree(t, s)

	r := newRaw(t, s, 1)
	for range quotaTransactions {
		r.call(xenstore.TypeTransactionStart, 0, "\x00")
	}
	r.want(xenstore.TypeTransactionStart, 0, "\x00", "ENOSPC\x00")
	for i := range quotaWatches {
		r.call(xenstore.TypeWatch, 0, "x\x00"+string(rune('A'+i))+"\x00")
		r.receive()
	}
	r.want(xenstore.TypeWatch, 0, "x\x00last\x00", "E2BIG\x00")
	r.want(xenstore.TypeResetWatches, 0, "\x00", xenstore.Acknowledgement)
	r.want(xenstore.TypeTransactionStart, 0, "\x00", "11\x00")
	r.want(xenstore.TypeWatch, 0, "x\x00last\x00", xenstore.Acknowledgement)
}

func TestDirectoryOfAnyLengthCanBeRead(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	var want []string
	for i := range 2000 {
		name := "a-long-name-of-a-node-" + string(rune('a'+i/400)) + string(rune('a'+i/20%20)) + string(rune('a'+i%20))
		want = append(want, name)
	}
	if err := c.Update(t.Context(), func(tx xenstore.Operations) error {
		for _, name := range want {
			if err := tx.Mkdir(t.Context(), "/dir/"+name); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Directory(t.Context(), "/dir")
	slices.Sort(got)
	if !slices.Equal(got, want) || err != nil {
		t.Fatalf("%d names, %v; want %d", len(got), err, len(want))
	}
	newRaw(t, s, 0).want(xenstore.TypeDirectory, 0, "/dir\x00", "E2BIG\x00")
}

// checkTree checks that the store is a tree and that it counts right.
func checkTree(t *testing.T, s *Server) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	owned := make(map[uint16]int)
	below := 1 // the root is in no directory
	for path, n := range s.nodes {
		if path != "/" {
			parent, name := split(path)
			p := s.nodes[parent]
			if p == nil {
				t.Errorf("%s is in nothing", path)
			} else if _, ok := slices.BinarySearch(p.children, name); !ok {
				t.Errorf("%s is not in its parent's list %v", path, p.children)
			}
			owned[n.perms[0].Domain]++
		}
		if !slices.IsSorted(n.children) {
			t.Errorf("children of %s are not sorted: %v", path, n.children)
		}
		below += len(n.children)
	}
	if below != len(s.nodes) {
		t.Errorf("%d nodes, but %d in directories", len(s.nodes), below)
	}
	for dom, n := range s.owned {
		if dom != 0 && owned[dom] != n { // the root's owner may differ by one
			t.Errorf("domain %d owns %d nodes, counted %d", dom, owned[dom], n)
		}
	}
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
