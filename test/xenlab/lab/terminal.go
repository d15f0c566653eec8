package lab

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/wire"
)

// Terminal is a command on a terminal in a guest: a prompt. Its methods may be used by
// any goroutine.
type Terminal struct {
	stream *stream
	done   chan struct{}
}

// OpenTerminal starts a command on a new terminal, with what it writes going to out.
// It ends with ctx.
func (g *Guest) OpenTerminal(ctx context.Context, c Command, rows, columns int, out io.Writer) (*Terminal, error) {
	e := c.request()
	e.Terminal = &wire.Terminal{Rows: uint16(rows), Columns: uint16(columns)}
	s, err := g.open(ctx, wire.Request{Exec: e})
	if err != nil {
		return nil, fmt.Errorf("%s: open a terminal: %w", g.name, err)
	}
	if _, err := wire.ReceiveJSON[wire.Started](s.Messages, wire.KindStarted); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: open a terminal: %w", g.name, s.why(err)), s.close())
	}
	t := &Terminal{stream: s, done: make(chan struct{})}
	go t.listen(out)
	return t, nil
}

func (t *Terminal) listen(out io.Writer) {
	defer close(t.done)
	defer t.stream.close() // there is nothing more to come
	for {
		k, b, err := t.stream.Receive()
		if err != nil || k == wire.KindExited {
			return
		}
		if k == wire.KindStdout {
			if _, err := out.Write(b); err != nil {
				return
			}
		}
	}
}

// Done is closed when the command has ended, or the connection to the guest.
func (t *Terminal) Done() <-chan struct{} { return t.done }

// Type is what a user types. It is lost if the command has ended.
func (t *Terminal) Type(b []byte) { _ = t.stream.Send(wire.KindStdin, b) }

// Resize tells the terminal a new size.
func (t *Terminal) Resize(rows, columns int) {
	// Lost if the command has ended.
	_ = wire.SendJSON(t.stream.Messages, wire.KindResize, wire.Terminal{Rows: uint16(rows), Columns: uint16(columns)})
}
