package xenstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

func TestEventBeforeTheAckIsNotLost(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ch := start(func() (*Watch, error) { return c.Watch(t.Context(), "/a") })
		h, payload := p.next()
		_, token, _ := ParseWatchEvent([]byte(payload))
		p.event("/a", token, 0)
		p.event("/a/b", token, 0)
		p.ok(h)
		r := <-ch
		if r.err != nil {
			t.Fatal(r.err)
		}
		for _, want := range []string{"/a", "/a/b"} {
			if got := <-r.value.Events(); got != want {
				t.Errorf("event %q, want %q", got, want)
			}
		}
	})
}

func TestEventIsNotTakenForTheReplyWhoseIdItHas(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		w, token := p.watch(c, "/a")
		read := start(func() (string, error) { return c.Read(t.Context(), "/b") })
		h := p.expect(TypeRead, "/b\x00")
		p.event("/a", token, h.Request)
		p.reply(h, "value")
		if r := <-read; r.value != "value" || r.err != nil {
			t.Errorf("read got %q, %v", r.value, r.err)
		}
		if got := <-w.Events(); got != "/a" {
			t.Errorf("event %q", got)
		}
	})
}

func TestAckOfAWatchMayHaveNoId(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ch := start(func() (*Watch, error) { return c.Watch(t.Context(), "/a") })
		_, request := p.next()
		p.ok(Header{Type: TypeUnwatch}) // another's
		p.ok(Header{Type: TypeWatch})
		r := <-ch
		if r.err != nil {
			t.Fatal(r.err)
		}
		if err := r.value.Close(); err != nil {
			t.Error(err)
		}
		p.expect(TypeUnwatch, request)
		read := start(func() (string, error) { return c.Read(t.Context(), "/b") })
		synctest.Wait()
		p.ok(Header{Type: TypeUnwatch})
		h := p.expect(TypeRead, "/b\x00")
		p.ok(Header{Type: TypeWatch}) // nobody's
		p.reply(h, "value")
		if r := <-read; r.value != "value" || r.err != nil {
			t.Errorf("read got %q, %v", r.value, r.err)
		}
		if got, want := c.Stats(), (Stats{LateReplies: 1, UnknownReplies: 2}); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
	})
}

func TestWatchWhoseCallerHasLeftIsEndedInTheServer(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ctx, cancel := context.WithCancel(t.Context())
		ch := start(func() (*Watch, error) { return c.Watch(ctx, "/left") })
		h, request := p.next()
		cancel()
		if r := <-ch; !errors.Is(r.err, context.Canceled) {
			t.Errorf("left: %v", r.err)
		}
		other := start(func() (*Watch, error) { return c.Watch(t.Context(), "/stays") })
		synctest.Wait()
		h.Request = 0 // an ack without an id is not the next one's
		p.ok(h)
		synctest.Wait()
		if len(other) != 0 {
			t.Error("the next watch has the ack of the one that was left")
		}
		p.ok(p.expect(TypeUnwatch, request))
		h, _ = p.next()
		p.ok(h)
		if r := <-other; r.err != nil {
			t.Error(r.err)
		}
	})
}

func TestRefusedWatchLeavesNothingBehind(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ch := start(func() (*Watch, error) { return c.Watch(t.Context(), "/a") })
		h, _ := p.next()
		p.refuse(h, "ENOSPC")
		if r := <-ch; !errors.Is(r.err, ErrNoSpace) || !strings.HasPrefix(r.err.Error(), "xenstore: watch /a: ") {
			t.Errorf("got %v", r.err)
		}
		if len(c.conn.watches) != 0 || c.conn.current != nil {
			t.Error("something was left")
		}
		p.quiet()
	})
}

func TestSlowWatcherHoldsUpNobodyAndLosesNoChange(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		slow, slowToken := p.watch(c, "/slow")
		quick, quickToken := p.watch(c, "/quick")
		for range 1000 {
			p.event("/slow", slowToken, 0)
			p.event("/slow/a", slowToken, 0)
		}
		p.event("/quick", quickToken, 0)
		if got := <-quick.Events(); got != "/quick" {
			t.Errorf("quick got %q", got)
		}
		ch := startErr(func() error { return c.Mkdir(t.Context(), "/a") })
		p.ok(p.expect(TypeMkdir, "/a\x00"))
		if err := <-ch; err != nil {
			t.Error(err)
		}
		// One of them was in hand already when its path came again.
		want := map[string]bool{"/slow": true, "/slow/a": true}
		n := 0
		for ; ; n++ {
			synctest.Wait()
			select {
			case path := <-slow.Events():
				delete(want, path)
				continue
			default:
			}
			break
		}
		if len(want) != 0 || n > 3 {
			t.Errorf("%d events, without %v", n, want)
		}
	})
}

func TestChangeAfterAnEventWasReadIsReportedAgain(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		w, token := p.watch(c, "/a")
		for range 100 {
			p.event("/a", token, 0)
			if got := <-w.Events(); got != "/a" {
				t.Fatalf("got %q", got)
			}
		}
	})
}

func TestFloodOfPathsBecomesOneEventForTheWatchedPath(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		w, token := p.watch(c, "/a")
		for i := range 3*maxWaiting + 10 {
			p.event(fmt.Sprint("/a/", i), token, 0)
		}
		synctest.Wait()
		if n := len(w.waiting); n > maxWaiting {
			t.Errorf("%d events wait", n)
		}
		last, top := fmt.Sprint("/a/", 3*maxWaiting+9), false
		for path := range w.Events() {
			top = top || path == "/a"
			if path == last {
				break
			}
		}
		if !top {
			t.Error("paths were dropped without an event for the watched one")
		}
	})
}

func TestClosedWatchIsEndedInTheServerAndItsEventsAreIgnored(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		w, token := p.watch(c, "/a")
		p.event("/a", token, 0) // nobody reads it
		synctest.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if _, open := <-w.Events(); open || w.Err() != nil {
			t.Errorf("open %v, error %v", open, w.Err())
		}
		p.event("/a", token, 0)
		h := p.expect(TypeUnwatch, "/a\x00"+token+"\x00")
		p.refuse(h, "ENOENT")
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		other, otherToken := p.watch(c, "/a")
		if token == otherToken {
			t.Errorf("token %q used again", token)
		}
		p.event("/a", token, 0)
		p.event("/a/other", otherToken, 0)
		if got := <-other.Events(); got != "/a/other" {
			t.Errorf("got the closed watch's %q", got)
		}
		if got := c.Stats().UnknownTokens; got != 2 {
			t.Errorf("%d unknown tokens", got)
		}
	})
}

func TestWatchClosedByItsReaderDoesNotDeadlock(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		w, token := p.watch(c, "/a")
		p.event("/a", token, 0)
		p.event("/a/b", token, 0)
		for range w.Events() {
			_ = w.Close()
		}
		p.expect(TypeUnwatch, "/a\x00"+token+"\x00")
	})
}
