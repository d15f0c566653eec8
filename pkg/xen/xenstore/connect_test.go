package xenstore

import (
	"errors"
	"io"
	"net"
	"testing"
)

// streams makes a client of pipes, and gives the far end of each, the first of which is
// the one for requests.
func streams(t *testing.T) (*Client, *peer, <-chan *peer) {
	far := make(chan *peer, 10)
	c, err := Connect(func() (io.ReadWriteCloser, error) {
		near, other := net.Pipe()
		far <- &peer{t, other}
		return near, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, <-far, far
}

// watchOn sets a watch whose stream is the next that is opened.
func watchOn(t *testing.T, c *Client, far <-chan *peer) (*Watch, *peer, string) {
	ch := start(func() (*Watch, error) { return c.Watch(t.Context(), "/a") })
	p := <-far
	h, payload := p.next()
	if h.Type != TypeWatch {
		t.Fatalf("request %v on the stream of a watch", h.Type)
	}
	_, token, _ := ParseWatchEvent([]byte(payload))
	p.ok(h)
	r := <-ch
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.value, p, token
}

func TestWatchHasAStreamThatIsClosedWithIt(t *testing.T) {
	c, requests, far := streams(t)
	w, p, token := watchOn(t, c, far)
	p.event("/a", token, 0)
	if got := inTime(t, "event", w.Events()); got != "/a" {
		t.Errorf("event %q", got)
	}
	if err := inTime(t, "close", startErr(w.Close)); err != nil {
		t.Error(err)
	}
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("stream of the watch that was closed: %v", err)
	}
	if _, ok := <-w.Events(); ok || w.Err() != nil {
		t.Errorf("closed watch: %v, %v", ok, w.Err())
	}
	read := start(func() (string, error) { return c.Read(t.Context(), "/b") })
	requests.reply(requests.expect(TypeRead, "/b\x00"), "value")
	if r := inTime(t, "reply", read); r.value != "value" || r.err != nil {
		t.Errorf("read got %q, %v", r.value, r.err)
	}
}

func TestWatchesEndWithTheStreamOfRequests(t *testing.T) {
	c, requests, far := streams(t)
	w, _, _ := watchOn(t, c, far)
	requests.Close()
	if _, ok := <-w.Events(); ok || !errors.Is(w.Err(), ErrClosed) {
		t.Errorf("watch of a connection that is lost: %v, %v", ok, w.Err())
	}
	if _, err := c.Watch(t.Context(), "/b"); !errors.Is(err, ErrClosed) {
		t.Errorf("watch on a connection that is lost: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestWatchWhoseStreamIsLostEndsAlone(t *testing.T) {
	c, _, far := streams(t)
	w, p, _ := watchOn(t, c, far)
	other, q, token := watchOn(t, c, far)
	p.Close()
	if _, ok := <-w.Events(); ok || !errors.Is(w.Err(), ErrClosed) {
		t.Errorf("watch whose stream is lost: %v, %v", ok, w.Err())
	}
	q.event("/a", token, 0)
	if got := inTime(t, "event", other.Events()); got != "/a" {
		t.Errorf("event of the other watch: %q", got)
	}
}

func TestWatchForWhichThereIsNoStreamFails(t *testing.T) {
	opened := 0
	c, err := Connect(func() (io.ReadWriteCloser, error) {
		if opened++; opened > 1 {
			return nil, errors.New("too many open files")
		}
		near, _ := net.Pipe()
		return near, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var e *Error
	if _, err := c.Watch(t.Context(), "/a"); !errors.As(err, &e) || e.Path != "/a" {
		t.Errorf("%v", err)
	}
}
