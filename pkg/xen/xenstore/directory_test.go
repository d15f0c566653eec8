package xenstore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestLongDirectoryIsReadInPartsOfOneGeneration(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		var old, now []string
		for i := range 2000 {
			old = append(old, fmt.Sprint("old-", i))
			now = append(now, fmt.Sprint("new-name-", i))
		}
		ch := start(func() ([]string, error) { return c.Directory(t.Context(), "/a") })
		p.refuse(p.expect(TypeDirectory, "/a\x00"), "E2BIG")
		// The directory changes after the second part.
		names, generation := old, uint64(1)
		for part, offset := 0, 0; ; part++ {
			h := p.expect(TypeDirectoryPart, fmt.Sprintf("/a\x00%d\x00", offset))
			if part == 2 {
				names, generation = now, 2
			}
			payload := AppendDirectoryPart(nil, generation, names, uint64(offset))
			p.reply(h, string(payload))
			if part == 2 {
				offset = 0 // and once more from the beginning
				continue
			}
			_, bytes, last, err := ParseDirectoryPart(payload)
			if err != nil || last {
				break
			}
			offset += len(bytes)
		}
		r := <-ch
		if r.err != nil || !slices.Equal(r.value, now) {
			t.Errorf("%d names, %v", len(r.value), r.err)
		}
	})
}

func TestLongDirectoryOfAnOldServerIsTooBig(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ch := start(func() ([]string, error) { return c.Directory(t.Context(), "/a") })
		p.refuse(p.expect(TypeDirectory, "/a\x00"), "E2BIG")
		p.refuse(p.expect(TypeDirectoryPart, "/a\x000\x00"), "ENOSYS")
		r := <-ch
		if !errors.Is(r.err, ErrTooBig) || !errors.Is(r.err, ErrNotSupported) || !strings.HasPrefix(r.err.Error(), "xenstore: directory /a: ") {
			t.Errorf("got %v", r.err)
		}
	})
}

func TestDirectoryThatGoesAwayBetweenItsPartsIsNotFound(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ch := start(func() ([]string, error) { return c.Directory(t.Context(), "/a") })
		p.refuse(p.expect(TypeDirectory, "/a\x00"), "E2BIG")
		p.reply(p.expect(TypeDirectoryPart, "/a\x000\x00"), "1\x00x\x00")
		p.refuse(p.expect(TypeDirectoryPart, "/a\x002\x00"), "ENOENT")
		if r := <-ch; !errors.Is(r.err, ErrNotFound) || r.value != nil {
			t.Errorf("got %q, %v", r.value, r.err)
		}
	})
}

func TestDirectoryWithoutAnEndIsGivenUp(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		ch := start(func() ([]string, error) { return c.Directory(t.Context(), "/a") })
		p.refuse(p.expect(TypeDirectory, "/a\x00"), "E2BIG")
		part := "1\x00" + strings.Repeat("x", MaxPayload-3) + "\x00"
		for sent := 0; sent <= maxDirectory; sent += MaxPayload - 2 {
			h, _ := p.next()
			p.reply(h, part)
		}
		if r := <-ch; !errors.Is(r.err, ErrMalformed) {
			t.Errorf("got %d names, %v", len(r.value), r.err)
		}
	})
}

func TestMalformedListsFailTheCallNotTheConnection(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		directory := start(func() ([]string, error) { return c.Directory(t.Context(), "/a") })
		p.reply(p.expect(TypeDirectory, "/a\x00"), "no NUL")
		if r := <-directory; !errors.Is(r.err, ErrMalformed) {
			t.Errorf("directory: %v", r.err)
		}
		perms := start(func() ([]Permission, error) { return c.Permissions(t.Context(), "/a") })
		p.reply(p.expect(TypeGetPermissions, "/a\x00"), "x0\x00")
		if r := <-perms; !errors.Is(r.err, ErrMalformed) || !strings.HasPrefix(r.err.Error(), "xenstore: permissions /a: ") {
			t.Errorf("permissions: %v", r.err)
		}
		read := start(func() (string, error) { return c.Read(t.Context(), "/a") })
		p.reply(p.expect(TypeRead, "/a\x00"), "")
		if r := <-read; r.value != "" || r.err != nil {
			t.Errorf("empty value: %q, %v", r.value, r.err)
		}
	})
}
