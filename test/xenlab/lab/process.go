package lab

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/wire"
)

// Process is a command that was started. Its methods may be used by any goroutine.
type Process struct {
	Pid int

	detached bool // ask for its end, and send signals, by requests of their own

	guest  *Guest
	stream *stream
	ready  chan struct{} // closed when it says that it is ready
	ended  chan struct{} // closed when result and err are there

	mu             sync.Mutex
	stdout, stderr []byte
	more           chan struct{} // closed, and made anew, when there is more of them

	result Result
	err    error
}

// listen takes what the agent says until the command has ended.
func (p *Process) listen() {
	defer close(p.ended)
	defer func() {
		p.result.Stdout, p.result.Stderr = p.Stdout(), p.Stderr()
		_ = p.stream.close() // there is nothing more to come
	}()
	for {
		k, b, err := p.stream.Receive()
		if err != nil {
			p.result.Code, p.err = -1, fmt.Errorf("%s: process %d: %w", p.guest.name, p.Pid, p.stream.why(err))
			return
		}
		switch k {
		case wire.KindStdout:
			p.add(&p.stdout, b)
		case wire.KindStderr:
			p.add(&p.stderr, b)
		case wire.KindReady:
			close(p.ready)
		case wire.KindExited:
			x, err := wire.Decode[wire.Exited](b)
			p.result.Code, p.result.Signal, p.err = x.Code, x.Signal, err
			return
		}
	}
}

func (p *Process) add(to *[]byte, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*to = append(*to, b...)
	close(p.more)
	p.more = make(chan struct{})
}

// AwaitStdout waits until what the command has written has text in it.
func (p *Process) AwaitStdout(ctx context.Context, text string) error {
	for {
		p.mu.Lock()
		found, more := bytes.Contains(p.stdout, []byte(text)), p.more
		p.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-more:
		case <-p.ended:
			if bytes.Contains([]byte(p.Stdout()), []byte(text)) {
				return nil
			}
			return fmt.Errorf("%s: process %d ended without %q: %w", p.guest.name, p.Pid, text, cmp.Or(p.err, io.EOF))
		case <-ctx.Done():
			return fmt.Errorf("%s: wait for %q of process %d: %w", p.guest.name, text, p.Pid, context.Cause(ctx))
		}
	}
}

// feed writes the command's input.
func (p *Process) feed(input []byte) {
	for part := range slices.Chunk(input, piece) {
		if p.stream.Send(wire.KindStdin, part) != nil {
			return // the command has ended
		}
	}
	_ = p.stream.Send(wire.KindStdinEnd, nil) // as above
}

// Wait waits for the end, any number of times. An exit code other than 0 is no error;
// a connection that broke, a context that ended and a guest that crashed are. The
// command goes on if this ctx ends, unless it was started with it.
func (p *Process) Wait(ctx context.Context) (Result, error) {
	if p.detached {
		return p.waitDetached(ctx)
	}
	select {
	case <-p.ended:
		return p.result, p.err
	default:
	}
	select {
	case <-p.ended:
		return p.result, p.err
	case <-ctx.Done():
		return Result{Code: -1, Stdout: p.Stdout(), Stderr: p.Stderr()}, fmt.Errorf("%s: wait for process %d: %w", p.guest.name, p.Pid, context.Cause(ctx))
	}
}

func (p *Process) waitDetached(ctx context.Context) (Result, error) {
	failed := func(err error) (Result, error) {
		return Result{Code: -1}, fmt.Errorf("%s: wait for process %d: %w", p.guest.name, p.Pid, err)
	}
	s, err := p.guest.open(ctx, wire.Request{Wait: p.Pid})
	if err != nil {
		return failed(err)
	}
	defer s.close() // there is nothing more to come
	x, err := wire.ReceiveJSON[wire.Exited](s.Messages, wire.KindExited)
	if err != nil {
		return failed(s.why(err))
	}
	return Result{Code: x.Code, Signal: x.Signal}, nil
}

// Signal sends a signal to the command's process group.
func (p *Process) Signal(ctx context.Context, s unix.Signal) error {
	if p.detached {
		// Its stream may be gone, with a connection that was lost.
		_, err := p.guest.Shell(ctx, fmt.Sprintf("kill -%d -%d", s, p.Pid))
		return err
	}
	if err := wire.SendJSON(p.stream.Messages, wire.KindSignal, wire.Signal{Number: int(s)}); err != nil {
		return fmt.Errorf("%s: send %s to process %d: %w", p.guest.name, unix.SignalName(s), p.Pid, p.stream.why(err))
	}
	return nil
}

// Stdout is what the command has written so far.
func (p *Process) Stdout() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.stdout)
}

// Stderr is what the command has written so far.
func (p *Process) Stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.stderr)
}
