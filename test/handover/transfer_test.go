package handover

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// chunk is how many bytes are given to one send. It is no multiple of a frame.
const chunk = 61_000

// transfer is one TCP connection that carries bytes one way until it is told to end.
// Both ends hash them. Each chunk begins with its number, so that none can be in the
// place of another.
type transfer struct {
	t    *testing.T
	name string
	pace time.Duration // between chunks; 0 is none
	size int           // of a chunk
	out  *net.TCPConn
	in   *net.TCPConn

	quit  chan struct{}
	ends  sync.WaitGroup
	bytes atomic.Int64 // received

	sentSum, gotSum hash.Hash
	sentBytes       int64
	outErr, inErr   error

	mu   sync.Mutex
	last time.Time
	gap  time.Duration // the longest between two reads that brought something
}

// startTransfer sends as fast as it goes; with a pace, a small chunk so often.
func startTransfer(t *testing.T, name string, from, at *space, to netip.Addr, pace time.Duration) *transfer {
	t.Helper()
	x := &transfer{t: t, name: name, pace: pace, size: chunk, quit: make(chan struct{}), sentSum: sha256.New(), gotSum: sha256.New()}
	if pace > 0 {
		x.size = 1000
	}
	var l net.Listener
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	must(t, at.Do(func() (err error) {
		l, err = plain.Listen(t.Context(), "tcp4", netip.AddrPortFrom(to, 0).String())
		return err
	}))
	defer l.Close()
	must(t, from.Do(func() error {
		c, err := net.DialTimeout("tcp4", l.Addr().String(), patience)
		if err == nil {
			x.out = c.(*net.TCPConn)
		}
		return err
	}))
	c, err := l.Accept()
	must(t, err)
	x.in = c.(*net.TCPConn)
	x.last = time.Now()
	x.ends.Go(func() { x.outErr = x.send() })
	x.ends.Go(func() { x.inErr = x.receive() })
	t.Cleanup(func() { // when finish was not called
		x.out.Close()
		x.in.Close()
		x.ends.Wait()
	})
	return x
}

func (x *transfer) send() error {
	b := make([]byte, x.size)
	fill := rand.NewChaCha8([32]byte{byte(len(x.name))})
	fill.Read(b)
	for n := uint64(0); ; n++ {
		select {
		case <-x.quit:
			return x.out.CloseWrite()
		default:
		}
		if x.pace > 0 {
			select {
			case <-x.quit:
			case <-time.After(x.pace):
			}
		}
		binary.BigEndian.PutUint64(b, n)
		x.sentSum.Write(b)
		k, err := x.out.Write(b)
		x.sentBytes += int64(k)
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

func (x *transfer) receive() error {
	b := make([]byte, 256<<10)
	for {
		n, err := x.in.Read(b)
		if n > 0 {
			x.gotSum.Write(b[:n])
			x.bytes.Add(int64(n))
			x.mu.Lock()
			now := time.Now()
			x.gap, x.last = max(x.gap, now.Sub(x.last)), now
			x.mu.Unlock()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
	}
}

// awaitMore waits until the receiver has got that much more.
func (x *transfer) awaitMore(bytes int64) {
	x.t.Helper()
	want := x.bytes.Load() + bytes
	for end := time.Now().Add(patience); x.bytes.Load() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			x.t.Fatalf("%s: %d bytes within %s, want %d", x.name, x.bytes.Load()+bytes-want, patience, bytes)
		}
	}
}

// longest is the longest time for which the receiver got nothing since the last call.
func (x *transfer) longest() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	gap := x.gap
	x.gap = 0
	return gap
}

// finish ends the transfer, and fails the test if not every byte came as it was sent.
func (x *transfer) finish() {
	x.t.Helper()
	close(x.quit)
	limit := time.AfterFunc(patience, func() { x.in.Close() })
	x.ends.Wait()
	limit.Stop()
	if err := errors.Join(x.outErr, x.inErr); err != nil {
		x.t.Errorf("%s: %v", x.name, err)
		return
	}
	if got := x.bytes.Load(); got != x.sentBytes || !bytes.Equal(x.gotSum.Sum(nil), x.sentSum.Sum(nil)) {
		x.t.Errorf("%s: sent %d bytes of SHA-256 %x, got %d of %x", x.name, x.sentBytes, x.sentSum.Sum(nil), got, x.gotSum.Sum(nil))
	}
}
