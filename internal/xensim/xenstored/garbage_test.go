package xenstored

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand"
	"net"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

func TestOversizedMessageEndsThatConnectionOnly(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	r := newRaw(t, s, 1)
	r.send(xenstore.Header{Type: xenstore.TypeWrite}, string(make([]byte, xenstore.MaxPayload)))
	if h, payload := r.receive(); h.Type != xenstore.TypeError || payload != "EINVAL\x00" {
		t.Fatalf("message of the largest size: %+v %q", h, payload)
	}
	h := xenstore.Header{Type: xenstore.TypeWrite, Length: xenstore.MaxPayload + 1}
	if _, err := r.conn.Write(h.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Fatalf("after an oversized message: %v", err)
	}
	write(t, c, "/a", "1")
}

func TestGarbageHarmsNobodyElse(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	rnd := rand.New(rand.NewSource(1))
	for range 20 {
		r := newRaw(t, s, 0)
		go io.Copy(io.Discard, r.conn)
		junk := make([]byte, 3000)
		rnd.Read(junk)
		r.conn.Write(junk)
		r.conn.Close()
	}
	write(t, c, "/a", "1")
	checkTree(t, s)
}

// FuzzRequests has a guest send whatever it likes: no panic, and the store stays a
// tree.
func FuzzRequests(f *testing.F) {
	seed := func(h xenstore.Header, payload string) []byte {
		return xenstore.AppendMessage(nil, h, []byte(payload))
	}
	f.Add(seed(xenstore.Header{Type: xenstore.TypeWrite}, "a/b\x00v"))
	f.Add(append(seed(xenstore.Header{Type: xenstore.TypeTransactionStart}, "\x00"),
		append(seed(xenstore.Header{Type: xenstore.TypeMkdir, Transaction: 1}, "a\x00"),
			seed(xenstore.Header{Type: xenstore.TypeTransactionEnd, Transaction: 1}, "T\x00")...)...))
	f.Add(seed(xenstore.Header{Type: xenstore.TypeWatch}, "a\x00t\x00"))
	f.Add(seed(xenstore.Header{Type: xenstore.TypeDirectoryPart}, "\x000\x00"))
	f.Add(seed(xenstore.Header{Type: xenstore.TypeRemove}, "/local\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := New(Options{})
		a := access{s: s}
		if err := errors.Join(a.mkdir("/local/domain/1"),
			a.setPermissions("/local/domain/1", []xenstore.Permission{{Domain: 1}})); err != nil {
			t.Fatal(err)
		}
		nobody, _ := net.Pipe()
		c := newConnection(s, nobody, 1)
		s.connections[c] = struct{}{}
		for r := bytes.NewReader(in); ; {
			h, payload, err := xenstore.ReadMessage(r)
			if err != nil {
				break
			}
			c.handle(h, payload)
		}
		for out := c.out; len(out) > 0; {
			h, err := xenstore.ParseHeader(out)
			if err != nil {
				t.Fatalf("answer %x: %v", out[:xenstore.HeaderSize], err)
			}
			out = out[xenstore.HeaderSize+int(h.Length):]
		}
		checkTree(t, s)
	})
}

func TestClientThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	deaf := newRaw(t, s, 0)
	deaf.watch("/a")
	value := string(make([]byte, 3000))
	for range 100 {
		write(t, c, "/a", value)
	}
	// One that sends without reading is cut off in the end.
	deaf.conn.SetDeadline(time.Now().Add(20 * time.Second))
	read := xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.TypeRead}, []byte("/a\x00"))
	sent := 0
	for {
		if _, err := deaf.conn.Write(read); err != nil {
			break
		}
		sent += len(value)
	}
	if sent < maxQueued/2 || sent > 2*maxQueued {
		t.Fatalf("cut off after %d bytes", sent)
	}
	write(t, c, "/a", "1")
}

func TestShortWritesMakeWholeMessages(t *testing.T) {
	s := newServer(t, Options{})
	r := newRaw(t, s, 0)
	for _, b := range xenstore.AppendMessage(nil, xenstore.Header{Type: xenstore.TypeMkdir}, []byte("/a\x00")) {
		if err := binary.Write(r.conn, binary.LittleEndian, b); err != nil {
			t.Fatal(err)
		}
	}
	if h, payload := r.receive(); h.Type != xenstore.TypeMkdir || payload != ok {
		t.Fatalf("%+v %q", h, payload)
	}
}

func TestDeadStoreAnswersWhenItIsRevived(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	s.SetDead(true)
	s.SetDead(true)
	_, err := c.Read(withTimeout(t, 50*time.Millisecond), "/")
	if err == nil {
		t.Fatal("a dead store answered")
	}
	s.SetDead(false)
	s.SetDead(false)
	write(t, c, "/a", "1")
}

func TestSlowStoreIsSlow(t *testing.T) {
	s := newServer(t, Options{})
	c := client(t, s, 0)
	s.SetDelay(30 * time.Millisecond)
	begin := time.Now()
	write(t, c, "/a", "1")
	if d := time.Since(begin); d < 30*time.Millisecond {
		t.Fatalf("answered after %v", d)
	}
	s.SetDelay(time.Hour)
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(t.Context(), "/a")
		read <- err
	}()
	s.Close() // must not wait for the hour
	if err := <-read; err == nil {
		t.Fatal("a closed store answered")
	}
}
