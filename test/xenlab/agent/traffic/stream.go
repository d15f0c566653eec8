package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/net/ipv4"
)

// maxBurst is how many packets are given to one system call.
const maxBurst = 64

// Streamed is the result of [Stream].
type Streamed struct {
	Sent      int     `json:"sent"`
	Refused   int     `json:"refused"` // by the kernel at the sender: not sent
	Seconds   float64 `json:"seconds"`
	LateMS    float64 `json:"late_ms"` // the most that a packet was sent after its time
	PerSecond float64 `json:"per_second"`
}

// Stream is the command "stream".
type Stream struct {
	To      string        `arg:"" help:"HOST:PORT of a stream-sink."`
	Packets int           `default:"10000" help:"So many at most."`
	Rate    int           `default:"5000" help:"Packets in a second; 0: as fast as it goes."`
	Size    int           `default:"200" help:"Bytes of UDP payload in a packet, 24 at least."`
	For     time.Duration `help:"It ends after this time, however many packets are left; 0: when all are sent."`
}

// Run sends the packets, each at its time; those that are late go at once. A packet
// that the kernel refuses, as while a route is away, is counted and not sent again.
func (c *Stream) Run(ctx context.Context, out io.Writer) error {
	if c.Packets < 1 || c.Rate < 0 || c.Size < packetHeader || c.For < 0 {
		return fmt.Errorf("--packets=%d --rate=%d --size=%d --for=%s: give at least 1, 0, %d and 0s", c.Packets, c.Rate, c.Size, c.For, packetHeader)
	}
	if c.For > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, c.For)
		defer stop()
	}
	to, err := net.ResolveUDPAddr("udp", c.To)
	if err != nil {
		return err
	}
	// A socket that is not connected is not told of unreachable ports.
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	var s Streamed
	began := time.Now()
	for s.Sent+s.Refused < c.Packets && ctx.Err() == nil {
		if err := c.burst(&s, conn, to, began); err != nil {
			return err
		}
	}
	s.Seconds = time.Since(began).Seconds()
	s.PerSecond = float64(s.Sent) / s.Seconds
	return print(out, s)
}

// due waits until the next packet is due, and returns how many are.
func (c *Stream) due(s *Streamed, began time.Time) int {
	if c.Rate == 0 {
		return maxBurst
	}
	every := time.Second / time.Duration(c.Rate)
	due := began.Add(time.Duration(s.Sent+s.Refused) * every)
	time.Sleep(time.Until(due))
	late := time.Since(due)
	s.LateMS = max(s.LateMS, float64(late)/1e6)
	return 1 + int(late/every)
}

// burst waits until a packet is due and sends all that are.
func (c *Stream) burst(s *Streamed, conn *net.UDPConn, to *net.UDPAddr, began time.Time) error {
	n := c.due(s, began)
	next, now := s.Sent+s.Refused, time.Now()
	msgs := make([]ipv4.Message, min(n, c.Packets-next, maxBurst))
	for i := range msgs {
		b := make([]byte, c.Size)
		numbered{total: uint32(c.Packets), number: uint64(next + i), sent: now}.put(b)
		msgs[i] = ipv4.Message{Buffers: [][]byte{b}, Addr: to}
	}
	batch := batchConn(conn, to.IP)
	for len(msgs) > 0 {
		k, err := batch.WriteBatch(msgs, 0)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil || k < 1 {
			s.Refused++ // the first one; sendmmsg tells no more
			msgs = msgs[1:]
			continue
		}
		s.Sent += k
		msgs = msgs[k:]
	}
	return nil
}
