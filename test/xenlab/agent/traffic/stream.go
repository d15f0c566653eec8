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
	To      string `arg:"" help:"HOST:PORT of a stream-sink."`
	Packets int    `default:"10000"`
	Rate    int    `default:"5000" help:"Packets in a second."`
	Size    int    `default:"200" help:"Bytes of UDP payload in a packet, 24 at least."`
}

// Run sends the packets, each at its time; those that are late go at once. A packet
// that the kernel refuses, as while a route is away, is counted and not sent again.
func (c *Stream) Run(ctx context.Context, out io.Writer) error {
	if c.Packets < 1 || c.Rate < 1 || c.Size < packetHeader {
		return fmt.Errorf("--packets=%d --rate=%d --size=%d: give at least 1, 1 and %d", c.Packets, c.Rate, c.Size, packetHeader)
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

// burst waits until a packet is due and sends all that are.
func (c *Stream) burst(s *Streamed, conn *net.UDPConn, to *net.UDPAddr, began time.Time) error {
	next := s.Sent + s.Refused
	every := time.Second / time.Duration(c.Rate)
	due := began.Add(time.Duration(next) * every)
	time.Sleep(time.Until(due))
	now := time.Now()
	s.LateMS = max(s.LateMS, float64(now.Sub(due))/1e6)

	n := min(1+int(now.Sub(due)/every), c.Packets-next, maxBurst)
	msgs := make([]ipv4.Message, n)
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
