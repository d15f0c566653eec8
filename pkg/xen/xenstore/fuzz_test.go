package xenstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
)

// FuzzParse checks that no bytes make a parser panic, and that what a parser takes is
// what its counterpart makes.
func FuzzParse(f *testing.F) {
	for _, payload := range []string{
		"", "\x00", "OK\x00", "a\x00b\x00", "n0\x00r5\x00", "b65535\x00", "EAGAIN\x00", "12\x00",
		"/a\x00token\x00", "7\x00x\x00y\x00\x00", "7\x00\x00",
	} {
		f.Add(AppendMessage(nil, Header{Type: TypeRead, Request: 1}, []byte(payload)))
	}
	f.Add(Header{Length: MaxPayload + 1}.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, payload, err := ReadMessage(bytes.NewReader(data))
		if err != nil {
			return
		}
		if back := AppendMessage(nil, h, payload); !bytes.HasPrefix(data, back) {
			t.Errorf("%x came back as %x", data, back)
		}
		if list, err := ParseStrings(payload); err == nil && !bytes.Equal(AppendStrings(nil, list), payload) {
			t.Errorf("%q came back from %q", payload, list)
		}
		if perms, err := ParsePermissions(payload); err == nil {
			again, err := ParsePermissions(AppendPermissions(nil, perms))
			if err != nil || !slices.Equal(perms, again) {
				t.Errorf("%v came back as %v, %v", perms, again, err)
			}
		}
		if path, token, err := ParseWatchEvent(payload); err == nil && !bytes.HasPrefix(payload, AppendWatchEvent(nil, path, token)) {
			t.Errorf("%q came back from %q, %q", payload, path, token)
		}
		if id, err := ParseTransaction(payload); err == nil && id == 0 {
			t.Errorf("transaction 0 of %q", payload)
		}
		if _, part, _, err := ParseDirectoryPart(payload); err == nil {
			if _, err := ParseStrings(part); err != nil {
				t.Errorf("part %q: %v", part, err)
			}
		}
		if ParseError(payload) == nil {
			t.Errorf("%q is no error", payload)
		}
		_ = CheckPath(string(payload))
		_ = h.Type.String()
	})
}

// FuzzClient feeds a client whatever the fuzzer makes up, cut into reads of any size.
// Whatever it is, every call must come back and nothing may be left running.
func FuzzClient(f *testing.F) {
	message := func(typ MessageType, request uint32, payload string) []byte {
		return AppendMessage(nil, Header{Type: typ, Request: request}, []byte(payload))
	}
	f.Add([]byte{}, uint8(0))
	f.Add([]byte("garbage that is longer than a header"), uint8(3))
	f.Add(slices.Concat(
		message(TypeWatchEvent, 0, "/a\x001\x00"), message(TypeWatch, 0, Acknowledgement),
		message(TypeTransactionStart, 1, "5\x00"), message(TypeTransactionStart, 2, "5\x00"),
		message(TypeTransactionStart, 3, "5\x00"), message(TypeError, 4, "EAGAIN\x00"),
	), uint8(200))
	f.Add(slices.Concat(
		message(TypeError, 1, "E2BIG\x00"), message(TypeError, 2, "E2BIG\x00"), message(TypeError, 3, "E2BIG\x00"),
		message(TypeDirectoryPart, 4, "7\x00x\x00"), message(TypeDirectoryPart, 5, "8\x00y\x00"),
	), uint8(16))
	f.Add(slices.Concat(message(TypeRead, 1, ""), message(TypeDirectory, 1, "a\x00"), message(TypeRead, 2, "x")), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		requests := &begun{c: make(chan struct{})}
		c := New(stream{&pieces{data: data, size: int(piece) + 1, after: requests.c}, requests, io.NopCloser(nil)})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = c.Directory(ctx, "/a") })
		wg.Go(func() {
			if w, err := c.Watch(ctx, "/a"); err == nil {
				for range w.Events() {
				}
				if !errors.Is(w.Err(), ErrClosed) {
					t.Errorf("watch ended with %v", w.Err())
				}
			}
		})
		wg.Go(func() {
			_ = c.Update(ctx, func(tx Operations) error {
				_, err := tx.Permissions(ctx, "/a")
				return err
			})
		})
		wg.Wait()
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := c.Mkdir(ctx, "/a"); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// pieces is a stream in reads of at most size bytes, which begins when after is closed.
type pieces struct {
	data  []byte
	size  int
	after chan struct{}
}

func (p *pieces) Read(b []byte) (int, error) {
	<-p.after
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.data[:min(p.size, len(p.data))])
	p.data = p.data[n:]
	return n, nil
}

// begun is a writer that closes c with its first write.
type begun struct {
	c    chan struct{}
	once sync.Once
}

func (w *begun) Write(b []byte) (int, error) {
	w.once.Do(func() { close(w.c) })
	return len(b), nil
}
