package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
)

// echo is a stream's handler that sends back what comes.
func echo(_ context.Context, c net.Conn) {
	defer c.Close()
	io.Copy(c, c) // it ends with the stream
}

// newLinePair returns the two ends of a line.
func newLinePair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "line")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

// serve serves a line until the test ends.
func serve(t *testing.T, port net.Conn, handle func(context.Context, net.Conn)) {
	t.Helper()
	var done sync.WaitGroup
	done.Go(func() { Serve(context.Background(), port, handle) }) // it ends with the port
	t.Cleanup(func() {
		port.Close()
		done.Wait()
	})
}

// relay gives out ports on one line, one at a time, as dom0 does with a guest's console:
// with a new one the one before is closed.
type relay struct {
	line net.Conn
	mu   sync.Mutex
	now  *io.PipeWriter
}

func newRelay(line net.Conn) *relay {
	r := &relay{line: line}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := line.Read(buf)
			if err != nil {
				return
			}
			r.mu.Lock()
			to := r.now
			r.mu.Unlock()
			to.Write(buf[:n]) // lost if the port is closed
		}
	}()
	return r
}

type relayPort struct {
	*io.PipeReader
	io.Writer
}

func (r *relay) port() relayPort {
	in, feed := io.Pipe()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now != nil {
		r.now.Close()
	}
	r.now = feed
	return relayPort{in, r.line}
}

func dial(t *testing.T, port io.ReadWriteCloser, noise io.Writer) *yamux.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := Dial(ctx, port, noise)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// mustEcho sends bytes through a new stream and wants them back.
func mustEcho(t *testing.T, s *yamux.Session, b []byte) {
	t.Helper()
	c, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go c.Write(b)
	got := make([]byte, len(b))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, b) {
		t.Fatal("other bytes came back")
	}
}

func TestASessionBeginsOnALineFullOfGarbage(t *testing.T) {
	client, server := newLinePair(t)
	garbage := append([]byte("login: \x16X"), randomBytes(5000)...)
	for _, end := range []net.Conn{client, server} {
		if _, err := end.Write(garbage); err != nil {
			t.Fatal(err)
		}
	}
	serve(t, server, echo)
	mustEcho(t, dial(t, client, io.Discard), randomBytes(300_000))
}

func TestASessionBeginsBeforeTheServerDoes(t *testing.T) {
	client, server := newLinePair(t)
	begun := make(chan struct{})
	go func() {
		defer close(begun)
		server.Read(make([]byte, 3)) // of the first hello, which waits in a guest that boots
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dialed := make(chan *yamux.Session, 1)
	go func() {
		s, err := Dial(ctx, client, io.Discard)
		if err != nil {
			t.Error(err)
		}
		dialed <- s
	}()
	<-begun
	serve(t, server, echo)
	if s := <-dialed; s != nil {
		mustEcho(t, s, []byte("hello"))
		s.Close()
	}
}

func TestANewSessionEndsTheOneBefore(t *testing.T) {
	client, server := newLinePair(t)
	console := newRelay(client)
	ended := make(chan struct{}, 10)
	serve(t, server, func(ctx context.Context, c net.Conn) {
		defer c.Close()
		go io.Copy(c, c) // it ends with the stream
		<-ctx.Done()
		ended <- struct{}{}
	})
	mustEcho(t, dial(t, console.port(), io.Discard), []byte("first"))
	port := console.port()
	// What the host was saying when it was cut off.
	half := lineOf(t, frame{kind: kindData, session: 1, payload: randomBytes(maxPayload)})
	if _, err := port.Write(half[:len(half)/2]); err != nil {
		t.Fatal(err)
	}
	mustEcho(t, dial(t, port, io.Discard), randomBytes(100_000))
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("the first session's stream goes on on the server")
	}
}

// printing is a port on which a kernel prints into the middle of a write.
type printing struct {
	net.Conn
	mu   sync.Mutex
	text string
}

func (p *printing) Write(b []byte) (int, error) {
	p.mu.Lock()
	text := p.text
	p.text = ""
	p.mu.Unlock()
	if _, err := p.Conn.Write(append(append(bytes.Clone(b[:len(b)/2]), text...), b[len(b)/2:]...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func TestAPanicInTheMiddleOfAFrameEndsTheSessionAndIsHeard(t *testing.T) {
	client, server := newLinePair(t)
	guest := &printing{Conn: server}
	done := make(chan struct{})
	go func() {
		Serve(context.Background(), guest, echo)
		close(done)
	}()
	defer func() { server.Close(); <-done }()
	var noise lockedBuffer
	s := dial(t, client, &noise)
	mustEcho(t, s, []byte("before"))
	guest.mu.Lock()
	guest.text = "Kernel panic - not syncing"
	guest.mu.Unlock()
	c, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	go c.Write(randomBytes(20_000))
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the stream waits for bytes that were lost")
	}
	if got := noise.String(); !bytes.Contains([]byte(got), []byte("Kernel panic - not syncing")) {
		t.Errorf("the panic is not in the %d bytes of noise", len(got))
	}
}

func TestDialGivesUpWithItsContext(t *testing.T) {
	client, _ := newLinePair(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*helloInterval)
	defer cancel()
	if _, err := Dial(ctx, client, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the context's", err)
	}
}

func TestDialSaysThatTheLineEnded(t *testing.T) {
	client, server := newLinePair(t)
	server.Close()
	if _, err := Dial(t.Context(), client, io.Discard); err == nil {
		t.Error("no error on a line whose other end is gone")
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
