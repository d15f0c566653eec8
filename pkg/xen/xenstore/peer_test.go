package xenstore

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// peer is the other side of a client's connection, which does what the test says and
// nothing else. Each of its methods blocks until the client has done its part.
type peer struct {
	t *testing.T
	net.Conn
}

// script runs f in a bubble with a client and its peer. A goroutine of the client that
// is left when f has ended and the client is closed fails the test.
func script(t *testing.T, f func(t *testing.T, c *Client, p *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c, p := New(near), &peer{t, far}
		defer far.Close()
		defer c.Close()
		f(t, c, p)
	})
}

// next takes the client's next request.
func (p *peer) next() (Header, string) {
	p.t.Helper()
	h, payload, err := ReadMessage(p)
	if err != nil {
		p.t.Fatalf("read request: %v", err)
	}
	return h, string(payload)
}

// expect takes the client's next request, which must be this one.
func (p *peer) expect(typ MessageType, payload string) Header {
	p.t.Helper()
	h, got := p.next()
	if h.Type != typ || got != payload {
		p.t.Fatalf("request %v %q, want %v %q", h.Type, got, typ, payload)
	}
	return h
}

// reply answers a request.
func (p *peer) reply(h Header, payload string) {
	p.t.Helper()
	if _, err := p.Write(AppendMessage(nil, h, []byte(payload))); err != nil {
		p.t.Fatalf("write reply: %v", err)
	}
}

func (p *peer) ok(h Header) { p.t.Helper(); p.reply(h, Acknowledgement) }

// refuse answers a request with an error.
func (p *peer) refuse(h Header, name string) {
	p.t.Helper()
	h.Type = TypeError
	p.reply(h, name+"\x00")
}

// event sends a watch event as the kernel's device does: with anything for an id.
func (p *peer) event(path, token string, request uint32) {
	p.t.Helper()
	p.reply(Header{Type: TypeWatchEvent, Request: request}, string(AppendWatchEvent(nil, path, token)))
}

// quiet fails the test if the client has something to say.
func (p *peer) quiet() {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(time.Minute)) // which does not take one here
	defer p.SetReadDeadline(time.Time{})
	if h, _, err := ReadMessage(p); !errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("unexpected request %v, or %v", h.Type, err)
	}
}

// result is what a call that runs by itself has come to.
type result[T any] struct {
	value T
	err   error
}

// start runs a call by itself.
func start[T any](f func() (T, error)) <-chan result[T] {
	ch := make(chan result[T], 1)
	go func() {
		value, err := f()
		ch <- result[T]{value, err}
	}()
	return ch
}

// startErr is start for a call that has nothing but an error.
func startErr(f func() error) <-chan error {
	ch := make(chan error, 1)
	go func() { ch <- f() }()
	return ch
}

// watch sets up a watch, and returns its token, too.
func (p *peer) watch(c *Client, path string) (*Watch, string) {
	p.t.Helper()
	ch := start(func() (*Watch, error) { return c.Watch(p.t.Context(), path) })
	h, payload := p.next()
	got, token, err := ParseWatchEvent([]byte(payload)) // the same layout
	if err != nil || h.Type != TypeWatch || got != path {
		p.t.Fatalf("request %v %q: %v", h.Type, payload, err)
	}
	p.ok(h)
	r := <-ch
	if r.err != nil {
		p.t.Fatalf("watch: %v", r.err)
	}
	return r.value, token
}
