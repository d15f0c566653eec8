package xenstore

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
)

func TestGarbageEndsTheConnectionWithItsReason(t *testing.T) {
	whole := AppendMessage(nil, Header{Type: TypeRead, Request: 2}, []byte("value"))
	for name, test := range map[string]struct {
		sent  []byte
		cause error
		text  string
	}{
		"payload too long": {
			Header{Type: TypeRead, Request: 2, Length: 1 << 30}.Append(nil),
			ErrMalformed, "READ with 1073741824 bytes of payload",
		},
		"text instead of a header": {
			[]byte("HTTP/1.1 400 Bad Request\r\n"), ErrMalformed, "bytes of payload",
		},
		"reply of another type": {
			AppendMessage(nil, Header{Type: TypeWrite, Request: 2}, []byte(Acknowledgement)),
			ErrMalformed, "reply WRITE to request READ",
		},
		"event without its token": {
			AppendMessage(nil, Header{Type: TypeWatchEvent}, []byte("/a\x00")), ErrMalformed, "watch event",
		},
		"end":                 {nil, io.EOF, "EOF"},
		"end in a header":     {whole[:5], io.ErrUnexpectedEOF, "unexpected EOF"},
		"end in a payload":    {whole[:HeaderSize+2], io.ErrUnexpectedEOF, "unexpected EOF"},
		"end before payload":  {whole[:HeaderSize], io.ErrUnexpectedEOF, "unexpected EOF"},
		"end after an unsent": {AppendMessage(nil, Header{Type: TypeRead, Request: 9}, nil), io.EOF, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			script(t, func(t *testing.T, c *Client, p *peer) {
				w, _ := p.watch(c, "/b") // request 1
				read := start(func() (string, error) { return c.Read(t.Context(), "/a") })
				p.expect(TypeRead, "/a\x00")      // request 2
				update := startErr(func() error { // waits
					return c.Update(t.Context(), func(Operations) error { return nil })
				})
				synctest.Wait()
				if _, err := p.Write(test.sent); err != nil {
					t.Fatal(err)
				}
				p.Close()
				<-c.Done()
				for _, err := range []error{
					(<-read).err, <-update, c.Write(t.Context(), "/after", ""),
					func() error { _, err := c.Watch(t.Context(), "/after"); return err }(),
				} {
					if !errors.Is(err, ErrClosed) || !errors.Is(err, test.cause) || !strings.Contains(err.Error(), test.text) {
						t.Errorf("call: %v", err)
					}
				}
				if _, open := <-w.Events(); open {
					t.Error("events of a dead connection")
				}
				if err := w.Err(); !errors.Is(err, ErrClosed) || !errors.Is(err, test.cause) {
					t.Errorf("watch: %v", err)
				}
				if err := w.Close(); err != nil {
					t.Errorf("close watch: %v", err)
				}
			})
		})
	}
}

func TestCloseEndsEveryCallAndMayComeTwice(t *testing.T) {
	for _, read := range []bool{false, true} { // or is the server yet to read the first
		script(t, func(t *testing.T, c *Client, p *peer) {
			first := startErr(func() error { return c.Mkdir(t.Context(), "/a") })
			synctest.Wait()
			second := startErr(func() error { return c.Mkdir(t.Context(), "/b") })
			synctest.Wait()
			if read {
				p.expect(TypeMkdir, "/a\x00")
			}
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			for _, ch := range []<-chan error{first, second} {
				if err := <-ch; !errors.Is(err, ErrClosed) {
					t.Errorf("call: %v", err)
				}
			}
			if err := c.Close(); err != nil {
				t.Errorf("close again: %v", err)
			}
			if _, err := c.Read(t.Context(), "/d"); !errors.Is(err, ErrClosed) {
				t.Errorf("call after close: %v", err)
			}
		})
	}
}

func TestEachMessageIsOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		var writes [][]byte
		c := New(stream{near, writerFunc(func(b []byte) (int, error) {
			writes = append(writes, slices.Clone(b))
			return near.Write(b)
		}), near})
		defer c.Close()
		p := &peer{t, far}
		for range 5 {
			go c.Write(t.Context(), "/a", "value")
		}
		for range 5 {
			p.ok(p.expect(TypeWrite, "/a\x00value"))
		}
		synctest.Wait()
		if len(writes) != 5 {
			t.Errorf("%d writes for 5 messages", len(writes))
		}
		for _, b := range writes {
			h, err := ParseHeader(b)
			if err != nil || len(b) != HeaderSize+int(h.Length) {
				t.Errorf("write of %d bytes: %+v, %v", len(b), h, err)
			}
		}
	})
}

type stream struct {
	io.Reader
	io.Writer
	io.Closer
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestErrorOfWriteIsTheAnswerOfTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fault error
		read, _ := io.Pipe()
		c := New(stream{read, writerFunc(func(b []byte) (int, error) { return 0, fault }), read})
		defer c.Close()

		fault = &fs.PathError{Op: "write", Path: "device", Err: syscall.ENOSPC}
		if _, err := c.Watch(t.Context(), "/a"); !errors.Is(err, ErrNoSpace) {
			t.Errorf("watch over quota: %v", err)
		}
		if len(c.conn.watches) != 0 || c.conn.current != nil {
			t.Error("refused watch left something behind")
		}
	})
}

func TestMessageCutOffWhenWrittenEndsTheConnection(t *testing.T) {
	for fault, want := range map[error]error{syscall.ENOSPC: syscall.ENOSPC, nil: io.ErrShortWrite} {
		synctest.Test(t, func(t *testing.T) {
			read, _ := io.Pipe()
			c := New(stream{read, writerFunc(func([]byte) (int, error) { return 3, fault }), read})
			defer c.Close()
			if err := c.Mkdir(t.Context(), "/a"); !errors.Is(err, ErrClosed) || !errors.Is(err, want) {
				t.Errorf("write that ends with %v: %v", fault, err)
			}
		})
	}
}

func TestReplyThatComesBeforeItsRequestIsIgnored(t *testing.T) {
	script(t, func(t *testing.T, c *Client, p *peer) {
		first := start(func() (string, error) { return c.Read(t.Context(), "/first") })
		synctest.Wait() // it is being written
		second := start(func() (string, error) { return c.Read(t.Context(), "/second") })
		synctest.Wait()
		p.reply(Header{Type: TypeRead, Request: 2}, "early")
		p.reply(p.expect(TypeRead, "/first\x00"), "1")
		p.reply(p.expect(TypeRead, "/second\x00"), "2")
		for i, r := range []result[string]{<-first, <-second} {
			if want := string('1' + rune(i)); r.value != want || r.err != nil {
				t.Errorf("got %q, %v; want %q", r.value, r.err, want)
			}
		}
		if got := c.Stats().UnknownReplies; got != 1 {
			t.Errorf("%d unknown replies", got)
		}
	})
}

func TestCloseWaitsForTheLastReadToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reading := make(chan struct{})
		c := New(stream{
			readerFunc(func([]byte) (int, error) { <-reading; return 0, io.EOF }),
			io.Discard, io.NopCloser(nil),
		})
		closed := startErr(c.Close)
		synctest.Wait()
		if len(closed) != 0 {
			t.Error("closed while the stream is still being read")
		}
		close(reading)
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
