package traffic

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// chunk is how many bytes are given to one send.
const chunk = 256 << 10

// pacedWrites is how many sends in a second a paced flow takes, about.
const pacedWrites = 50

// Transfer is what one end of one TCP flow saw.
type Transfer struct {
	Bytes   uint64  `json:"bytes"`
	SHA256  string  `json:"sha256"`
	Seconds float64 `json:"seconds"` // from the first byte on
	GapMS   float64 `json:"gap_ms"`  // the longest time without a byte between two
	Wrong   []Piece `json:"wrong,omitempty"`
}

// Sent is the result of [Send], for all flows together: from the first connection to
// the last receiver's answer.
type Sent struct {
	Flows    int     `json:"flows"`
	Bytes    uint64  `json:"bytes"` // of all flows
	Seconds  float64 `json:"seconds"`
	MbitPerS float64 `json:"mbit_per_s"`
	GapMS    float64 `json:"gap_ms"` // the longest that a receiver has waited for bytes
}

// Send is the command "send".
type Send struct {
	To      string        `arg:"" help:"HOST:PORT of a receive."`
	Bytes   uint64        `default:"67108864" help:"Bytes in each flow; 0: until it is told to end."`
	Pace    uint64        `help:"Bytes a second in each flow; 0: as fast as it goes."`
	Seed    uint64        `default:"1" help:"Seed of the first flow; the next flow has the next."`
	Flows   int           `default:"1" help:"Connections at the same time, at least one."`
	Timeout time.Duration `default:"60s" help:"How long all of it may take."`
}

// Run sends, and fails if a receiver got anything else than what was sent. It goes on
// trying to connect until its time is up. If it is to be told when to end, it prints
// Ready for each flow once that has begun.
func (c *Send) Run(ctx context.Context, out io.Writer) error {
	if c.Flows < 1 {
		return fmt.Errorf("--flows=%d: give at least 1", c.Flows)
	}
	told := ctx
	if c.Bytes == 0 {
		ctx = context.WithoutCancel(ctx) // the receivers' answers come after that
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	all := make([]flow, c.Flows)
	flows, ctx := errgroup.WithContext(ctx)
	for i := range all {
		all[i] = flow{Send: c, told: told, out: out, seed: c.Seed + uint64(i), hash: sha256.New()}
		flows.Go(func() error {
			if err := all[i].run(ctx); err != nil {
				return fmt.Errorf("flow %d to %s: %w", i, c.To, err)
			}
			return nil
		})
	}
	if err := flows.Wait(); err != nil {
		return err
	}
	s := Sent{Flows: c.Flows}
	first := all[0].began
	for _, f := range all {
		s.Bytes += f.sent
		s.GapMS = max(s.GapMS, f.got.GapMS)
		if f.began.Before(first) {
			first = f.began
		}
	}
	s.Seconds = time.Since(first).Seconds()
	s.MbitPerS = 8 * float64(s.Bytes) / s.Seconds / 1e6
	return print(out, s)
}

// flow is one connection of a [Send].
type flow struct {
	*Send
	told  context.Context // ends when there is no more to be sent, if Bytes does not say
	out   io.Writer
	seed  uint64
	hash  hash.Hash
	began time.Time // when it was connected
	sent  uint64
	got   Transfer // the receiver's answer
}

// run sends the flow and compares it with the receiver's answer.
func (f *flow) run(ctx context.Context) error {
	conn, err := dialUntil(ctx, f.To)
	if err != nil {
		return err
	}
	defer conn.Close()
	f.began = time.Now()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	if err := f.send(conn); err != nil {
		return fmt.Errorf("after %d bytes: %w", f.sent, err)
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	if err := json.NewDecoder(conn).Decode(&f.got); err != nil {
		return fmt.Errorf("the receiver's answer: %w", err)
	}
	if want := hex.EncodeToString(f.hash.Sum(nil)); f.got.Bytes != f.sent || f.got.SHA256 != want {
		return fmt.Errorf("sent %d bytes of SHA-256 %s, the receiver got %d of %s; wrong: %+v", f.sent, want, f.got.Bytes, f.got.SHA256, f.got.Wrong)
	}
	return nil
}

// send writes all there is to be sent, behind the seed.
func (f *flow) send(conn *net.TCPConn) error {
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, f.seed)); err != nil {
		return err
	}
	stream, buf := newBytes(f.seed), make([]byte, chunk)
	if f.Pace > 0 {
		buf = buf[:min(chunk, max(f.Pace/pacedWrites, 1))]
	}
	for f.more() {
		b := buf
		if f.Bytes > 0 {
			b = b[:min(f.Bytes-f.sent, uint64(len(b)))]
		}
		stream.fill(b)
		f.hash.Write(b)
		n, err := conn.Write(b)
		if err == nil && f.Bytes == 0 && f.sent == 0 {
			err = print(f.out, Ready{f.To})
		}
		f.sent += uint64(n)
		if err != nil {
			return err
		}
		f.pause()
	}
	return nil
}

func (f *flow) more() bool {
	if f.Bytes == 0 {
		return f.told.Err() == nil
	}
	return f.sent < f.Bytes
}

// pause waits until the next bytes are due.
func (f *flow) pause() {
	if f.Pace == 0 {
		return
	}
	due := f.began.Add(time.Duration(float64(f.sent) / float64(f.Pace) * float64(time.Second)))
	select {
	case <-f.told.Done():
	case <-time.After(time.Until(due)):
	}
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
	var seed [8]byte
	if _, err := io.ReadFull(conn, seed[:]); err != nil {
		return t, fmt.Errorf("the flow's seed: %w", err)
	}
	in := gapReader{Reader: conn}
	check, hash, buf := newChecker(binary.BigEndian.Uint64(seed[:])), sha256.New(), make([]byte, chunk)
	for {
		n, err := io.ReadFull(&in, buf)
		t.Bytes += uint64(n)
		hash.Write(buf[:n])
		check.add(buf[:n])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return t, fmt.Errorf("after %d bytes: %w", t.Bytes, err)
		}
	}
	t.Seconds, t.GapMS, t.Wrong = time.Since(in.first).Seconds(), in.gapMS, check.wrong
	t.SHA256 = hex.EncodeToString(hash.Sum(nil))
	return t, json.NewEncoder(conn).Encode(t)
}

// gapReader measures the time between two reads that return.
type gapReader struct {
	io.Reader
	first, last time.Time
	gapMS       float64
}

func (r *gapReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	now := time.Now()
	if r.first.IsZero() {
		r.first, r.last = now, now
	}
	r.gapMS = max(r.gapMS, float64(now.Sub(r.last))/1e6)
	r.last = now
	return n, err
}
