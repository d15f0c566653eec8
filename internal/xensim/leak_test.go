package xensim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// openFiles counts this process's descriptors by what they are.
func openFiles(t *testing.T) map[string]int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "/proc/") {
			continue // the directory being read
		}
		kind, _, _ := strings.Cut(target, ":[")
		count[kind]++
	}
	return count
}

// grown says of which kinds there are more descriptors than before. There may be
// fewer: what other tests left is closed when it is collected as garbage.
func grown(t *testing.T, before map[string]int) string {
	t.Helper()
	list := ""
	for kind, n := range openFiles(t) {
		if n > before[kind] {
			list += fmt.Sprintf("%d more of %s; ", n-before[kind], kind)
		}
	}
	return list
}

// mappings counts this process's mappings of memfds.
func mappings(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "/memfd:xen-")
}

// life is everything that a pair of domains does, and its end.
func life(t *testing.T, opts Options) {
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	open := s.Connect
	if opts.Dir != "" {
		if err := s.Listen(); err != nil {
			t.Fatal(err)
		}
		open = func(dom xen.DomID) (*Connection, error) { return Dial(opts.Dir, dom) }
	}
	front, err1 := open(1)
	back, err2 := open(0)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	fe, err1 := front.OpenEvents()
	be, err2 := back.OpenEvents()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f, b := join(t, fe, be)
		notify(t, fe, f)
		notify(t, be, b)
		if err := errors.Join(be.Unbind(b), fe.Unbind(f)); err != nil {
			t.Fatal(err)
		}
	}
	f, b := join(t, fe, be)
	notify(t, fe, f)
	notify(t, be, b)
	p := alloc(t, front, 0, 4, true)
	q := alloc(t, front, 0, 2, false)
	m := mapGrant(t, back, 1, p.Refs()[0], true)
	n, err := back.MapForCopy(1, q.Refs()[1], false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := back.MapGrant(1, q.Refs()[1], true); err == nil {
		t.Fatal("mapped a read-only grant for writing")
	}
	if err := p.Free(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Unmap(), front.Close(), back.Close(), n.Unmap(), fe.Close(), be.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestNoDescriptorOrMappingIsLeaked(t *testing.T) {
	for name, opts := range map[string]Options{
		"in process": {}, "heap": {HeapPages: true}, "sockets": {Dir: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			life(t, opts) // what the runtime opens once is open now
			files, maps := openFiles(t), mappings(t)
			for range 3 {
				life(t, opts)
			}
			if leak := grown(t, files); leak != "" {
				t.Error(leak)
			}
			if after := mappings(t); after > maps {
				t.Errorf("mappings: %d before, %d after", maps, after)
			}
		})
	}
}

func TestServerClosedUnderItsClientsLeaksNothing(t *testing.T) {
	once := func() {
		s, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Connect(1)
		if err != nil {
			t.Fatal(err)
		}
		e, err := c.OpenEvents()
		if err != nil {
			t.Fatal(err)
		}
		bind(t, e, 0)
		alloc(t, c, 0, 1, true)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Grants().Alloc(0, 1, true); err == nil {
			t.Fatal("alloc succeeded")
		}
		if _, err := c.OpenEvents(); err == nil {
			t.Fatal("open succeeded")
		}
		if _, err := s.Connect(2); err == nil {
			t.Fatal("connect succeeded")
		}
		if err := errors.Join(e.Close(), c.Close()); err != nil {
			t.Fatal(err)
		}
	}
	once()
	files, maps := openFiles(t), mappings(t)
	once()
	if leak := grown(t, files); leak != "" {
		t.Error(leak)
	}
	if after := mappings(t); after > maps {
		t.Errorf("mappings: %d before, %d after", maps, after)
	}
}

// rawSocket opens a socket to the server without saying anything.
func rawSocket(t *testing.T, dir string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: hypercallSocket(dir), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestGarbageOnTheHypercallSocketHarmsNobodyElse(t *testing.T) {
	s, dir := listening(t)
	front := dial(t, dir, 1)
	p := alloc(t, front, 0, 1, true)
	files := openFiles(t)
	for range 20 {
		conn := rawSocket(t, dir)
		junk := make([]byte, requestSize+5)
		rand.Read(junk)
		if _, _, err := conn.WriteMsgUnix(junk, unix.UnixRights(0, 1), nil); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(junk); err == nil && n != 0 {
			t.Fatalf("garbage was answered: %x", junk[:n])
		}
		conn.Close()
	}
	// Requests of the right size with all sorts of contents, on each kind of handle.
	for _, kind := range []op{opOpenGrants, opOpenMaps, opOpenEvents} {
		conn, _, err := openSocket(dir, request{Op: kind, Domain: 1})
		if err != nil {
			t.Fatal(err)
		}
		c := &socketCaller{conn: conn}
		for range 2000 {
			var b [requestSize]byte
			rand.Read(b[:])
			q, _ := parseRequest(b[:])
			q.Op %= opEvents + 2
			q.Domain %= 3
			q.Number %= 4
			q.Index %= 3 * xen.PageSize
			q.Count %= 20
			q.Offset %= 5 * xen.PageSize
			r, err := c.call(q)
			var n unix.Errno
			if err != nil && !errors.As(err, &n) {
				t.Fatalf("%+v: %v", q, err)
			}
			r.close()
		}
		c.close()
	}
	await.That(t, "one grant is left", func() bool { return len(s.GrantsInUse(1)) == 1 })
	await.That(t, "no other descriptor is open", func() bool { return grown(t, files) == "" })
	if err := p.Free(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if v, err := front.Store().Read(ctx, "domid"); v != "1" || err != nil {
		t.Fatalf("domid %q, %v", v, err)
	}
}
