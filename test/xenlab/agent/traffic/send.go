package traffic

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// chunk is how many bytes are given to one send.
const chunk = 256 << 10

// Transfer is what one end of one TCP flow saw.
type Transfer struct {
	Bytes   uint64  `json:"bytes"`
	SHA256  string  `json:"sha256"`
	Seconds float64 `json:"seconds"` // from the first byte on
}

// Sent is the result of [Send], for all flows together: from the first connection to
// the last receiver's answer.
type Sent struct {
	Flows    int     `json:"flows"`
	Bytes    uint64  `json:"bytes"` // of all flows
	Seconds  float64 `json:"seconds"`
	MbitPerS float64 `json:"mbit_per_s"`
}

// Send is the command "send".
type Send struct {
	To      string        `arg:"" help:"HOST:PORT of a receive."`
	Bytes   uint64        `default:"67108864" help:"Bytes in each flow."`
	Seed    uint64        `default:"1" help:"Seed of the first flow; the next flow has the next."`
	Flows   int           `default:"1" help:"Connections at the same time, at least one."`
	Timeout time.Duration `default:"60s" help:"How long all of it may take."`
}

// Run sends, and fails if a receiver got anything else than what was sent. It goes on
// trying to connect until its time is up.
func (c *Send) Run(ctx context.Context, out io.Writer) error {
	if c.Flows < 1 {
		return fmt.Errorf("--flows=%d: give at least 1", c.Flows)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	began := make([]time.Time, c.Flows)
	flows, ctx := errgroup.WithContext(ctx)
	for i := range began {
		flows.Go(func() (err error) {
			if began[i], err = c.flow(ctx, c.Seed+uint64(i)); err != nil {
				return fmt.Errorf("flow %d to %s: %w", i, c.To, err)
			}
			return nil
		})
	}
	if err := flows.Wait(); err != nil {
		return err
	}
	first := slices.MinFunc(began, time.Time.Compare)
	s := Sent{Flows: c.Flows, Bytes: uint64(c.Flows) * c.Bytes, Seconds: time.Since(first).Seconds()}
	s.MbitPerS = 8 * float64(s.Bytes) / s.Seconds / 1e6
	return print(out, s)
}

// flow sends one flow, reads the receiver's verdict, and returns when it was connected.
func (c *Send) flow(ctx context.Context, seed uint64) (time.Time, error) {
	conn, err := dialUntil(ctx, c.To)
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close()
	began := time.Now()
	return began, c.send(ctx, conn, seed)
}

func (c *Send) send(ctx context.Context, conn *net.TCPConn, seed uint64) error {
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()

	stream, hash := newBytes(seed), sha256.New()
	buf := make([]byte, chunk)
	for left := c.Bytes; left > 0; {
		b := buf[:min(left, chunk)]
		stream.fill(b)
		hash.Write(b)
		if n, err := conn.Write(b); err != nil {
			return fmt.Errorf("after %d bytes: %w", c.Bytes-left+uint64(n), err)
		}
		left -= uint64(len(b))
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	var got Transfer
	if err := json.NewDecoder(conn).Decode(&got); err != nil {
		return fmt.Errorf("the receiver's answer: %w", err)
	}
	if want := hex.EncodeToString(hash.Sum(nil)); got.Bytes != c.Bytes || got.SHA256 != want {
		return fmt.Errorf("sent %d bytes of SHA-256 %s, the receiver got %d of %s", c.Bytes, want, got.Bytes, got.SHA256)
	}
	return nil
}

// dialUntil connects, however long it takes the other side to listen.
func dialUntil(ctx context.Context, to string) (*net.TCPConn, error) {
	for {
		// A lost SYN is repeated after a second, a refused one here.
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", to)
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Receive is the command "receive".
type Receive struct {
	On      string        `arg:"" optional:"" default:":5001" help:"[HOST]:PORT to listen on."`
	Flows   int           `default:"1" help:"Connections to serve before it ends."`
	Timeout time.Duration `default:"60s" help:"How long it waits for all of it."`
}

// Run prints Ready, and a [Transfer] for each flow.
func (c *Receive) Run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.On)
	if err != nil {
		return err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	if err := print(out, Ready{l.Addr().String()}); err != nil {
		return err
	}
	results := make(chan Transfer, c.Flows)
	var flows errgroup.Group
	for i := range c.Flows {
		conn, err := l.Accept()
		if err != nil {
			return fmt.Errorf("%d of %d flows came: %w", i, c.Flows, errors.Join(ctx.Err(), err))
		}
		flows.Go(func() error {
			t, err := receive(ctx, conn.(*net.TCPConn))
			results <- t
			return err
		})
	}
	err = flows.Wait()
	close(results)
	for t := range results {
		err = errors.Join(err, print(out, t))
	}
	return err
}

// receive reads one flow to its end and tells the sender what came.
func receive(ctx context.Context, conn *net.TCPConn) (Transfer, error) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	var t Transfer
	var began time.Time
	hash, buf := sha256.New(), make([]byte, chunk)
	for {
		n, err := conn.Read(buf)
		if t.Bytes == 0 {
			began = time.Now()
		}
		t.Bytes += uint64(n)
		hash.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return t, fmt.Errorf("after %d bytes: %w", t.Bytes, err)
		}
	}
	t.Seconds = time.Since(began).Seconds()
	t.SHA256 = hex.EncodeToString(hash.Sum(nil))
	return t, json.NewEncoder(conn).Encode(t)
}
