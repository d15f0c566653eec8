package wire

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// helloInterval is between two hellos. The line may be dead until a guest boots.
	helloInterval = 250 * time.Millisecond
	// longHello says that of so many hellos the first is as long as a frame can be. It gets
	// the server's reader past a frame that was cut short, and its answer this side's. Not
	// all are: what a guest that boots has not read yet waits for it, and its terminal echoes
	// it, 16 bytes at a time.
	longHello = 20
	// patience is how long yamux lets a write to the line take. An emulated machine can
	// stand still for long; callers have contexts.
	patience = time.Hour
)

// line is one session's bytes: what yamux runs over.
type line struct {
	session uint64
	out     *frameWriter
	in      *io.PipeReader
	feed    *io.PipeWriter
	close   func() error // of the client's port; nil for a server, which keeps it
	wanted  uint32       // number of the next data frame in; the reader's
	mu      sync.Mutex   // orders sent
	sent    uint32
}

func newLine(session uint64, out *frameWriter) *line {
	l := &line{session: session, out: out}
	l.in, l.feed = io.Pipe()
	return l
}

func (l *line) Read(p []byte) (int, error) { return l.in.Read(p) }

func (l *line) Write(p []byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 {
		part := p[:min(len(p), maxPayload)]
		if err := l.out.write(frame{kind: kindData, session: l.session, number: l.sent, payload: part}); err != nil {
			return n, err
		}
		l.sent++
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

func (l *line) Close() error {
	err := l.in.CloseWithError(io.ErrClosedPipe)
	if l.close != nil {
		err = errors.Join(err, l.close())
	}
	return err
}

// take hands a data frame to the session. It fails if one before it is missing.
func (l *line) take(f frame) error {
	if f.number != l.wanted {
		err := fmt.Errorf("frames %d to %d of the line are lost or damaged", l.wanted, f.number-1)
		l.feed.CloseWithError(err)
		return err
	}
	l.wanted++
	_, err := l.feed.Write(f.payload)
	return err
}

func config() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = patience
	c.StreamOpenTimeout = 0
	c.LogOutput = io.Discard
	return c
}

// Dial begins a session over port, which it owns: closing the session closes it, and
// an error has closed it. It says hello until it is answered or ctx ends. What comes
// in between frames, such as a kernel's last words, is written to noise.
func Dial(ctx context.Context, port io.ReadWriteCloser, noise io.Writer) (*yamux.Session, error) {
	var id [8]byte
	rand.Read(id[:]) // never fails, see crypto/rand
	l := newLine(binary.BigEndian.Uint64(id[:]), &frameWriter{to: port})
	l.close = sync.OnceValue(port.Close)
	welcome, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- l.client(newFrameReader(port, noise), welcome) }()
	if err := l.hello(ctx, welcome, ended); err != nil {
		return nil, errors.Join(fmt.Errorf("begin a session: %w", err), l.Close())
	}
	s, err := yamux.Client(l, config())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin a session: %w", err), l.Close())
	}
	return s, nil
}

// hello says hello until welcome is closed.
func (l *line) hello(ctx context.Context, welcome <-chan struct{}, ended <-chan error) error {
	// A port whose other end does not read blocks a write.
	stop := context.AfterFunc(ctx, func() { _ = l.close() }) // the caller reports it
	defer stop()
	again := time.NewTicker(helloInterval)
	defer again.Stop()
	for n := 0; ; n++ {
		f := frame{kind: kindHello, session: l.session}
		if n%longHello == 0 {
			f.payload = make([]byte, maxPayload)
		}
		if err := l.out.write(f); err != nil {
			return errors.Join(ctx.Err(), err)
		}
		select {
		case <-welcome:
			return nil
		case err := <-ended:
			return errors.Join(ctx.Err(), err)
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
}

// client reads the frames of l until the line ends.
func (l *line) client(r *frameReader, welcome chan<- struct{}) error {
	begun := false
	for {
		f, err := r.read()
		if err != nil {
			l.feed.CloseWithError(err)
			return err
		}
		switch {
		case f.session != l.session:
		case f.kind == kindWelcome && !begun:
			begun = true
			close(welcome)
		case f.kind == kindData && begun:
			if err := l.take(f); err != nil {
				return err
			}
		}
	}
}

// Serve answers the hellos on port until reading fails, and has handle called for
// every stream, each in a goroutine, with a context that ends with the stream's
// session. handle closes the stream.
func Serve(ctx context.Context, port io.ReadWriter, handle func(context.Context, net.Conn)) error {
	r, out := newFrameReader(port, io.Discard), &frameWriter{to: port}
	var now *line
	end := func() {}
	defer func() { end() }()
	for {
		f, err := r.read()
		if err != nil {
			return fmt.Errorf("read the line: %w", err)
		}
		switch {
		case f.kind == kindHello && (now == nil || f.session != now.session):
			end()
			now = newLine(f.session, out)
			if end, err = serveSession(ctx, now, handle); err != nil {
				return err
			}
			fallthrough
		case f.kind == kindHello:
			if err := out.write(frame{kind: kindWelcome, session: f.session, payload: f.payload}); err != nil {
				return fmt.Errorf("write to the line: %w", err)
			}
		case f.kind == kindData && now != nil && f.session == now.session:
			// The session has ended if it fails. The client notices, or has done it.
			_ = now.take(f)
		}
	}
}

// serveSession begins the session of l and returns what ends it.
func serveSession(ctx context.Context, l *line, handle func(context.Context, net.Conn)) (func(), error) {
	s, err := yamux.Server(l, config())
	if err != nil {
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		for {
			stream, err := s.AcceptStream()
			if err != nil {
				return
			}
			go handle(ctx, stream)
		}
	}()
	return func() {
		cancel()
		// It waits for its last write, which the line may hold for long.
		go s.Close()
	}, nil
}
