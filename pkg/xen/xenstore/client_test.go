package xenstore

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

func TestOperationsAreTheRequestsOfTheProtocol(t *testing.T) {
	perms := []Permission{{Domain: 3}, {Domain: 0, Read: true}}
	for _, op := range []struct {
		name             string
		do               func(ctx context.Context, c *Client) (any, error)
		typ              MessageType
		request, answer  string
		want             any
		errorNamesOpPath string
	}{
		{
			"read", func(ctx context.Context, c *Client) (any, error) { return c.Read(ctx, "/a") },
			TypeRead, "/a\x00", "any\x00bytes\xff", "any\x00bytes\xff", "xenstore: read /a: ",
		},
		{
			"write", func(ctx context.Context, c *Client) (any, error) { return nil, c.Write(ctx, "/a", "any\x00bytes\xff") },
			TypeWrite, "/a\x00any\x00bytes\xff", Acknowledgement, nil, "xenstore: write /a: ",
		},
		{
			"directory", func(ctx context.Context, c *Client) (any, error) { return c.Directory(ctx, "a") },
			TypeDirectory, "a\x00", "0\x001\x00", []string{"0", "1"}, "xenstore: directory a: ",
		},
		{
			"mkdir", func(ctx context.Context, c *Client) (any, error) { return nil, c.Mkdir(ctx, "/a/b") },
			TypeMkdir, "/a/b\x00", Acknowledgement, nil, "xenstore: mkdir /a/b: ",
		},
		{
			"remove", func(ctx context.Context, c *Client) (any, error) { return nil, c.Remove(ctx, "/a") },
			TypeRemove, "/a\x00", Acknowledgement, nil, "xenstore: remove /a: ",
		},
		{
			"permissions", func(ctx context.Context, c *Client) (any, error) { return c.Permissions(ctx, "/a") },
			TypeGetPermissions, "/a\x00", "n3\x00r0\x00", perms, "xenstore: permissions /a: ",
		},
		{
			"set permissions", func(ctx context.Context, c *Client) (any, error) {
				return nil, c.SetPermissions(ctx, "@releaseDomain", perms)
			},
			TypeSetPermissions, "@releaseDomain\x00n3\x00r0\x00", Acknowledgement, nil, "xenstore: set permissions @releaseDomain: ",
		},
	} {
		t.Run(op.name, func(t *testing.T) {
			script(t, func(t *testing.T, c *Client, p *peer) {
				ch := start(func() (any, error) { return op.do(t.Context(), c) })
				p.reply(p.expect(op.typ, op.request), op.answer)
				if r := <-ch; r.err != nil || !reflect.DeepEqual(r.value, op.want) {
					t.Errorf("got %q, %v; want %q", r.value, r.err, op.want)
				}

				ch = start(func() (any, error) { return op.do(t.Context(), c) })
				p.refuse(p.expect(op.typ, op.request), "EACCES")
				r := <-ch
				var e *Error
				if !errors.Is(r.err, ErrPermission) || !errors.As(r.err, &e) || !strings.HasPrefix(r.err.Error(), op.errorNamesOpPath) {
					t.Errorf("error %v, want %q...", r.err, op.errorNamesOpPath)
				}
			})
		})
	}
}

func TestNextRequestWaitsForTheReplyToTheLast(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		var calls []<-chan result[string]
		for _, path := range []string{"/0", "/1", "/2"} {
			calls = append(calls, start(func() (string, error) { return c.Read(t.Context(), path) }))
			synctest.Wait()
		}
		for i, call := range calls {
			path := "/" + string('0'+rune(i))
			h := p.expect(TypeRead, path+"\x00")
			if i == 0 {
				p.quiet()
			}
			for _, b := range AppendMessage(nil, h, []byte("value of "+path)) { // in pieces
				if _, err := p.Write([]byte{b}); err != nil {
					t.Fatal(err)
				}
			}
			if r := <-call; r.value != "value of "+path || r.err != nil {
				t.Errorf("%s: got %q, %v", path, r.value, r.err)
			}
		}
	})
}

func TestRepliesToNobodyAreCountedAndIgnored(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		p.reply(Header{Type: TypeRead, Request: 999}, "x")
		p.reply(Header{Type: TypeError, Request: 0}, "EINVAL\x00")
		p.reply(Header{Type: TypeWatch, Request: 0}, Acknowledgement)
		p.event("/a", "no such token", 0)
		ch := start(func() (string, error) { return c.Read(t.Context(), "/a") })
		p.reply(p.expect(TypeRead, "/a\x00"), "1")
		if r := <-ch; r.value != "1" || r.err != nil {
			t.Errorf("got %q, %v", r.value, r.err)
		}
		if got, want := c.Stats(), (Stats{UnknownReplies: 3, UnknownTokens: 1}); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
	})
}

func TestWhatTheServerWouldRefuseIsNotSent(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ctx := t.Context()
		for what, err := range map[string]error{
			"path with a NUL":      c.Write(ctx, "/a\x00b", ""),
			"path with a space":    c.Mkdir(ctx, "/a b"),
			"empty path":           c.Remove(ctx, ""),
			"special name":         c.Write(ctx, "@releaseDomain", ""),
			"no owner":             c.SetPermissions(ctx, "/a", nil),
			"slash at the end":     func() error { _, err := c.Directory(ctx, "/a/"); return err }(),
			"path too long":        func() error { _, err := c.Read(ctx, strings.Repeat("a", MaxRelativePath+1)); return err }(),
			"watch of a bad path":  func() error { _, err := c.Watch(ctx, "//"); return err }(),
			"permissions of a bad": func() error { _, err := c.Permissions(ctx, "é"); return err }(),
		} {
			var e *Error
			if !errors.Is(err, ErrInvalid) || !errors.As(err, &e) || strings.ContainsAny(err.Error(), "\x00\n") || len(err.Error()) > 400 {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := c.Write(ctx, "/a", strings.Repeat("v", MaxPayload-len("/a\x00")+1)); !errors.Is(err, ErrTooBig) {
			t.Errorf("value too long: %v", err)
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if err := c.Write(ended, "/a", ""); !errors.Is(err, context.Canceled) {
			t.Errorf("context that has ended: %v", err)
		}
		if _, err := c.Watch(ended, "/a"); !errors.Is(err, context.Canceled) {
			t.Errorf("context that has ended: %v", err)
		}
		p.quiet()
	})
}

func TestLargestValueIsSentWhole(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		value := strings.Repeat("v", MaxPayload-len("/a\x00"))
		ch := startErr(func() error { return c.Write(t.Context(), "/a", value) })
		p.ok(p.expect(TypeWrite, "/a\x00"+value))
		if err := <-ch; err != nil {
			t.Error(err)
		}
	})
}

func TestLateReplyIsNotGivenToTheNextCaller(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ctx, cancel := context.WithCancel(t.Context())
		first := start(func() (string, error) { return c.Read(ctx, "/first") })
		late := p.expect(TypeRead, "/first\x00")
		cancel()
		if r := <-first; !errors.Is(r.err, context.Canceled) || !strings.Contains(r.err.Error(), "read /first") {
			t.Errorf("first: %v", r.err)
		}
		second := start(func() (string, error) { return c.Read(t.Context(), "/second") })
		synctest.Wait()
		p.reply(late, "late")
		h := p.expect(TypeRead, "/second\x00")
		p.reply(late, "later still")
		p.reply(h, "second")
		if r := <-second; r.value != "second" || r.err != nil {
			t.Errorf("second got %q, %v", r.value, r.err)
		}
		if got, want := c.Stats(), (Stats{LateReplies: 1, UnknownReplies: 1}); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
	})
}

func TestCallerCanLeaveWhileTheServerDoesNotRead(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ctx, cancel := context.WithCancel(t.Context())
		written := startErr(func() error { return c.Write(ctx, "/being-written", "") })
		synctest.Wait()
		waiting := startErr(func() error { return c.Write(ctx, "/waits", "") })
		synctest.Wait()
		cancel()
		for _, ch := range []<-chan error{written, waiting} {
			if err := <-ch; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}
		// What was not begun is never sent.
		after := startErr(func() error { return c.Write(t.Context(), "/after", "") })
		p.ok(p.expect(TypeWrite, "/being-written\x00"))
		p.ok(p.expect(TypeWrite, "/after\x00"))
		if err := <-after; err != nil {
			t.Error(err)
		}
	})
}

func TestRequestIdsLeaveOutZeroWhenTheyComeAround(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		c.conn.mu.Lock()
		c.conn.lastID = 1<<32 - 2
		c.conn.mu.Unlock()
		var ids []uint32
		for range 3 {
			ch := startErr(func() error { return c.Mkdir(t.Context(), "/a") })
			h := p.expect(TypeMkdir, "/a\x00")
			ids = append(ids, h.Request)
			p.ok(h)
			if err := <-ch; err != nil {
				t.Error(err)
			}
		}
		if want := []uint32{1<<32 - 1, 1, 2}; !slices.Equal(ids, want) {
			t.Errorf("ids %v, want %v", ids, want)
		}
	})
}
