package hold

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
)

// rawAnswer sends a message as it is, and returns the answer: empty when the holder
// ended the connection instead.
func rawAnswer(t *testing.T, path string, b []byte, fds ...int) string {
	t.Helper()
	conn := rawDial(t, path, true)
	defer conn.Close()
	must(t, send(conn, b, fds))
	buf := make([]byte, maxMessage)
	n, got, err := receive(conn, buf)
	closeAll(got)
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		return ""
	}
	must(t, err)
	m, err := decode(buf[:n])
	must(t, err)
	return fmt.Sprint(m.op, " ", m.text)
}

func TestGarbageChangesNothingAndLeaksNothing(t *testing.T) {
	path, s := serve(t, ServerOptions{})
	c := dial(t, path)
	kept := newCanary(t)
	must(t, c.Put(t.Context(), kept.bundle("k")))
	fd := memfd(t, "")
	many := make([]int, maxRights)
	for i := range many {
		many[i] = fd
	}
	put := message{op: opPut, key: "k", names: []string{"a", "b"}}
	bad := func(change func(*message)) []byte {
		m := put
		change(&m)
		return m.encode()
	}
	refused := fmt.Sprint(opRefused, " ")
	before := files(t, os.Getpid())
	for name, c := range map[string]struct {
		b    []byte
		fds  []int
		want string
	}{
		"noise":                         {[]byte("GET / HTTP/1.1\r\n\r\n"), nil, ""},
		"noise with descriptors":        {[]byte("GET / HTTP/1.1\r\n\r\n"), []int{fd, fd}, ""},
		"zeros":                         {make([]byte, 100), []int{fd}, ""},
		"cut message":                   {put.encode()[:7], []int{fd, fd}, ""},
		"message and more":              {append(put.encode(), 0), []int{fd, fd}, ""},
		"longer than any":               {make([]byte, maxMessage+1), []int{fd, fd}, ""},
		"far longer than any":           {make([]byte, 100000), []int{fd, fd}, ""},
		"an answer":                     {message{op: opBundle, key: "k", names: []string{"a"}}.encode(), nil, ""},
		"unknown operation":             {[]byte{200, 0, 0, 0, 0, 0}, nil, ""},
		"too few descriptors":           {put.encode(), []int{fd}, refused + "bundle \"k\": 1 descriptors came for 2 names"},
		"no descriptors":                {put.encode(), nil, refused + "bundle \"k\": 0 descriptors came for 2 names"},
		"too many descriptors":          {put.encode(), many, refused + "bundle \"k\": 253 descriptors came for 2 names"},
		"descriptors with no put":       {message{op: opDrop, key: "k"}.encode(), many, refused + "only a put has descriptors"},
		"two of a name":                 {bad(func(m *message) { m.names = []string{"a", "a"} }), []int{fd, fd}, refused + "bundle k: two descriptors are named a"},
		"empty name":                    {bad(func(m *message) { m.names = []string{"a", ""} }), []int{fd, fd}, refused + "bundle k: name of 0 bytes: expected 1 to 64"},
		"key with a line break":         {bad(func(m *message) { m.key = "k\nx" }), []int{fd, fd}, refused + "key \"k\\nx\": expected printable ASCII without spaces"},
		"no key":                        {bad(func(m *message) { m.key = "" }), []int{fd, fd}, refused + "key of 0 bytes: expected 1 to 128"},
		"identifier with a space":       {bad(func(m *message) { m.parked = " " }), []int{fd, fd}, refused + "identifier \" \": expected printable ASCII without spaces"},
		"parked with no identifier":     {message{op: opPark, key: "k"}.encode(), nil, refused + "identifier of 0 bytes: expected 1 to 128"},
		"parked with an impossible one": {message{op: opPark, key: "k", parked: "\x00"}.encode(), nil, refused + "identifier \"\\x00\": expected printable ASCII without spaces"},
	} {
		if got := rawAnswer(t, path, c.b, c.fds...); got != c.want {
			t.Errorf("%s: answer %q, want %q", name, got, c.want)
		}
	}
	// Empty messages with descriptors, which look like an end of the connection.
	conn := rawDial(t, path, true)
	_, _, err := conn.WriteMsgUnix(nil, unix.UnixRights(many...), nil)
	must(t, err)
	if n, _, err := receive(conn, make([]byte, 100)); err == nil {
		t.Errorf("%d bytes in answer to an empty message", n)
	}
	conn.Close()
	for _, g := range [][]byte{nil, {0}, []byte("xnf-hold"), make([]byte, 100000), []byte("Xnf-hold\x00\x00\x00\x01")} {
		conn := rawDial(t, path, false)
		_, _, err := conn.WriteMsgUnix(g, unix.UnixRights(many...), nil)
		must(t, err)
		if n, _, err := receive(conn, make([]byte, 100)); err == nil {
			t.Errorf("%d bytes in answer to %q for a greeting", n, g[:min(len(g), 20)])
		}
		conn.Close()
	}
	await.That(t, "only what was open is open", func() bool { return files(t, os.Getpid()) == before })
	if live, parked := s.store.count(); live != 1 || parked != 0 {
		t.Errorf("%d bundles, %d parked", live, parked)
	}
	kept.letGo()
	kept.wantOpen()
}

func TestClientOfAnotherVersionIsToldBoth(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	conn := rawDial(t, path, false)
	must(t, send(conn, greeting{version: 99}.encode(), nil))
	buf := make([]byte, greetingSpace)
	n, _, err := receive(conn, buf)
	must(t, err)
	g, err := decodeGreeting(buf[:n])
	must(t, err)
	if g.version != Version || g.reason != "the holder has version 1 of the protocol, the client 99" {
		t.Errorf("greeted with %+v", g)
	}
	if _, _, err := receive(conn, buf); err == nil {
		t.Error("the connection goes on")
	}
}

func TestOneClientTooManyIsToldSo(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	var clients []*Client
	for range MaxClients {
		clients = append(clients, dial(t, path))
	}
	_, err := Dial(t.Context(), path)
	wantError(t, err, ErrRefused, "32 clients are connected")
	// With connections that say nothing there is an end to explanations too.
	var silent []*net.UnixConn
	for range 2 * MaxClients {
		silent = append(silent, rawDial(t, path, false))
	}
	_, err = Dial(t.Context(), path)
	wantError(t, err, ErrUnavailable, "")
	must(t, clients[0].Put(t.Context(), Bundle{Key: "k"}))
	for _, conn := range silent {
		conn.Close()
	}
	must(t, clients[5].Close())
	await.That(t, "a place is free again", func() bool {
		c, err := Dial(t.Context(), path)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func TestClientThatReadsNothingLosesItsConnectionOnly(t *testing.T) {
	path, _ := serve(t, ServerOptions{})
	c := dial(t, path)
	must(t, c.Put(t.Context(), Bundle{Key: "k", Label: strings.Repeat("x", MaxLabel)}))
	slow := rawDial(t, path, true)
	must(t, slow.SetWriteDeadline(time.Now().Add(5*writeTimeout)))
	for {
		if err := send(slow, message{op: opGet, key: "k"}.encode(), nil); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the holder still waits for it")
			}
			break
		}
		must(t, c.Put(t.Context(), Bundle{Key: "other"}))
	}
	got, err := c.Get(t.Context(), "k")
	must(t, err)
	must(t, got.Close())
}

func TestStoreHasABound(t *testing.T) {
	path, s := serve(t, ServerOptions{FileLimit: reservedFiles + 3})
	c := dial(t, path)
	old, fd := newCanary(t), memfd(t, "")
	must(t, c.Put(t.Context(), old.bundle("k")))
	three := Bundle{Key: "k", Files: []File{{"a", fd}, {"b", fd}, {"c", fd}}}
	wantError(t, c.Put(t.Context(), three), ErrRefused, "1 descriptors are held, 3 more would exceed the limit of 3 (raise LimitNOFILE= or `ulimit -Hn`)")
	old.letGo()
	old.wantOpen()
	must(t, c.Drop(t.Context(), "k"))
	must(t, c.Put(t.Context(), three))
	must(t, c.Drop(t.Context(), "k"))
	for i := range MaxBundles {
		must(t, c.Put(t.Context(), Bundle{Key: fmt.Sprint(i)}))
	}
	wantError(t, c.Put(t.Context(), Bundle{Key: "more"}), ErrRefused, "1024 bundles are held")
	must(t, c.Put(t.Context(), Bundle{Key: "5", Label: "replaced"}))
	if l, err := c.List(t.Context()); err != nil || len(l) != MaxBundles {
		t.Errorf("%d bundles are listed, %v", len(l), err)
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if s.store.files != 0 {
		t.Errorf("%d descriptors are counted", s.store.files)
	}
	if _, err := NewServer(ServerOptions{FileLimit: 256}); err == nil {
		t.Error("a holder that could hold nothing was made")
	}
}
