package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// askHeader is what a request begins with, big-endian: 4 bytes of number, from 0.
const askHeader = 4

// lastAnswers is how long answers are waited for after the last request.
const lastAnswers = 30 * time.Second

// Asked is the result of [Ask]. A round trip counts from when its request is given to the
// kernel, which is on time even while answers are not: a connection that stands still is
// seen in every request that waits for it.
type Asked struct {
	Sent      int     `json:"sent"`
	Answered  int     `json:"answered"`
	AverageMS float64 `json:"average_ms"`
	P95MS     float64 `json:"p95_ms"` // 95th percentile
	MaxMS     float64 `json:"max_ms"`
	MaxAt     int     `json:"max_at"` // number of the request that took that long
}

// Ask is the command "ask".
type Ask struct {
	To       string        `arg:"" help:"HOST:PORT of an answer."`
	Requests int           `default:"100"`
	Rate     int           `default:"20" help:"Requests in a second, on one connection. None waits for the answer to another."`
	Size     int           `default:"64" help:"Bytes of a request and of its answer, 4 at least."`
	Timeout  time.Duration `default:"60s" help:"How long the connection may take."`
}

// Run sends the requests, each at its time, and takes their answers.
func (c *Ask) Run(ctx context.Context, out io.Writer) error {
	if c.Requests < 1 || c.Rate < 1 || c.Size < askHeader {
		return fmt.Errorf("--requests=%d --rate=%d --size=%d: give at least 1, 1 and %d", c.Requests, c.Rate, c.Size, askHeader)
	}
	dialing, stop := context.WithTimeout(ctx, c.Timeout)
	defer stop()
	conn, err := dialUntil(dialing, c.To)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	a := asking{Ask: c, conn: conn, began: time.Now(), at: make([]atomic.Int64, c.Requests)}
	var both errgroup.Group
	both.Go(func() error { return a.send(ctx) })
	both.Go(a.receive)
	// What has come counts when the time is up, too.
	if err := both.Wait(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%s, after %d answers: %w", c.To, len(a.trips), err)
	}
	return print(out, a.asked())
}

// asking is one run of an [Ask].
type asking struct {
	*Ask
	conn  *net.TCPConn
	began time.Time
	at    []atomic.Int64 // when each request was sent, in ns since began
	sent  int            // send's, until both have ended
	trips []float64      // in ms; receive's, until both have ended
}

// due is when request n is.
func (a *asking) due(n int) time.Time {
	return a.began.Add(time.Duration(n) * time.Second / time.Duration(a.Rate))
}

// send writes each request at its time.
func (a *asking) send(ctx context.Context) error {
	b := make([]byte, a.Size)
	for n := range a.Requests {
		select {
		case <-ctx.Done():
			return a.conn.CloseWrite()
		case <-time.After(time.Until(a.due(n))):
		}
		binary.BigEndian.PutUint32(b, uint32(n))
		a.at[n].Store(int64(time.Since(a.began)))
		if _, err := a.conn.Write(b); err != nil {
			return err
		}
		a.sent++
	}
	if err := a.conn.SetReadDeadline(time.Now().Add(lastAnswers)); err != nil {
		return err
	}
	return a.conn.CloseWrite()
}

// receive takes answers until the other side has no more.
func (a *asking) receive() error {
	b := make([]byte, a.Size)
	for n := 0; ; n++ {
		switch _, err := io.ReadFull(a.conn, b); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if got := binary.BigEndian.Uint32(b); got != uint32(n) || n >= a.Requests {
			return fmt.Errorf("the answer to request %d, where %d's is due", got, n)
		}
		a.trips = append(a.trips, float64(int64(time.Since(a.began))-a.at[n].Load())/1e6)
	}
}

func (a *asking) asked() Asked {
	s := Asked{Sent: a.sent, Answered: len(a.trips)}
	if len(a.trips) == 0 {
		return s
	}
	for n, v := range a.trips {
		s.AverageMS += v / float64(len(a.trips))
		if v > s.MaxMS {
			s.MaxMS, s.MaxAt = v, n
		}
	}
	slices.Sort(a.trips)
	s.P95MS = Percentile(a.trips, 95)
	return s
}

// Percentile is the least of sorted values that so many percent of them do not exceed
// (nearest rank). There must be one.
func Percentile(sorted []float64, percent int) float64 {
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

// Answer is the command "answer".
type Answer struct {
	On string `arg:"" optional:"" default:":5003" help:"[HOST]:PORT to listen on."`
}

// Run prints Ready and sends every byte back to where it came from, over any number of
// connections at a time, until ctx ends.
func (c *Answer) Run(ctx context.Context, out io.Writer) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.On)
	if err != nil {
		return err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	if err := print(out, Ready{l.Addr().String()}); err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			// A connection that breaks is the other side's to tell of.
			_, _ = io.Copy(conn, conn)
		}()
	}
}
