package controlserver

import (
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// maxChunk is the size of one write, in bytes. A client that does not take so much in time
// counts as one that does not read.
const maxChunk = 64 << 10

// streamWriter is the output of a capture. Its first Write sends the response without an
// error, and then the stream.
type streamWriter struct {
	c     *client
	begun bool
}

// stream makes the connection one that only writes. If the client sends anything from now on,
// or ends the connection, stream calls gone, and then closes the channel.
func (c *client) stream(gone func()) (*streamWriter, <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer gone()
		if c.conn.SetReadDeadline(time.Time{}) == nil {
			_, _ = c.in.ReadByte() // any byte of the client ends the capture
		}
	}()
	return &streamWriter{c: c}, ended
}

// Write implements io.Writer. It fails once the client has taken nothing for too long.
func (w *streamWriter) Write(p []byte) (n int, err error) {
	if !w.begun {
		if err := w.begin(); err != nil {
			return 0, err
		}
	}
	for len(p) > 0 {
		if err := w.c.conn.SetWriteDeadline(time.Now().Add(w.c.limits.stall)); err != nil {
			return n, err
		}
		m, err := w.c.conn.Write(p[:min(len(p), maxChunk)])
		n += m
		if err != nil {
			return n, err
		}
		p = p[m:]
	}
	return n, nil
}

func (w *streamWriter) begin() error {
	w.begun = true
	if !w.c.respond(control.Response{}) {
		return errGone
	}
	return nil
}

// finish sends the error of the request, if nothing was written yet.
func (w *streamWriter) finish(err error) {
	switch {
	case w.begun:
	case err != nil:
		w.c.respond(control.Response{Error: printable.Error(err)})
	default:
		w.c.respond(control.Response{})
	}
}
