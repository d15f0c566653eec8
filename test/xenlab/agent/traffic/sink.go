package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// sinkBuffer is the sink's socket buffer in bytes: some seconds of a stream, so that
// a sink that is not scheduled loses nothing.
const sinkBuffer = 16 << 20

// afterLast is how long duplicates are waited for when the stream is whole.
const afterLast = 200 * time.Millisecond

// Seen is the result of [StreamSink].
type Seen struct {
	Total      int     `json:"total"` // as the packets say; 0 if none came
	Received   int     `json:"received"`
	Lost       int     `json:"lost"`       // numbers that never came
	Duplicated int     `json:"duplicated"` // packets whose number had come before
	Reordered  int     `json:"reordered"`  // packets that came after one with a higher number
	Corrupted  int     `json:"corrupted"`  // packets with a byte that is wrong
	Overflowed int     `json:"overflowed"` // packets that the sink's own socket dropped; they count as lost too
	GapMS      float64 `json:"gap_ms"`     // the longest time between two packets
	GapAt      int     `json:"gap_at"`     // number of the packet that ended it
	Seconds    float64 `json:"seconds"`    // first packet to last
	// JitterMS is the 95th percentile of the differences between the trip of a packet and
	// that of the one that came before it. What the two clocks differ by is not in it.
	JitterMS float64 `json:"jitter_ms"`
}

// StreamSink is the command "stream-sink".
type StreamSink struct {
	On      string        `arg:"" optional:"" default:":5002" help:"[HOST]:PORT to listen on."`
	Quiet   time.Duration `default:"2s" help:"It ends this long after the last packet, or 0.2 s when the stream is whole."`
	Timeout time.Duration `default:"60s" help:"How long it waits for the first packet."`
}

// Run prints Ready, and [Seen] when the stream is over.
func (c *StreamSink) Run(ctx context.Context, out io.Writer) error {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) { err = prepareSink(int(fd)) })
		return errors.Join(cerr, err)
	}}
	pc, err := lc.ListenPacket(ctx, "udp", c.On)
	if err != nil {
		return err
	}
	defer pc.Close()
	defer context.AfterFunc(ctx, func() { pc.Close() })()
	conn := pc.(*net.UDPConn)
	if err := print(out, Ready{pc.LocalAddr().String()}); err != nil {
		return err
	}
	var t tally
	err = c.collect(conn, &t)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
		err = nil // the time is up, or the context over
	}
	return errors.Join(err, print(out, t.seen()))
}

// prepareSink makes room, and has the kernel count what it drops and say when a packet
// came: the sink itself may be scheduled late.
func prepareSink(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sinkBuffer); err != nil {
		return fmt.Errorf("SO_RCVBUFFORCE (root is needed): %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		return fmt.Errorf("SO_TIMESTAMPNS: %w", err)
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
}

func (c *StreamSink) collect(conn *net.UDPConn, t *tally) error {
	batch := batchConn(conn, conn.LocalAddr().(*net.UDPAddr).IP)
	msgs := make([]ipv4.Message, maxBurst)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{make([]byte, 1<<16)}
		msgs[i].OOB = make([]byte, unix.CmsgSpace(4)+unix.CmsgSpace(16))
	}
	wait := c.Timeout
	for {
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		n, err := batch.ReadBatch(msgs, 0)
		if err != nil {
			return err
		}
		now := time.Now()
		for _, m := range msgs[:n] {
			t.add(m.Buffers[0][:m.N], t.control(m.OOB[:m.NN], now))
		}
		if wait = c.Quiet; t.whole() {
			wait = min(wait, afterLast)
		}
	}
}

// batcher is what ipv4.PacketConn and ipv6.PacketConn have in common.
type batcher interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

// batchConn returns conn for whole batches. A socket of no address is an IPv6 one
// that does both.
func batchConn(conn *net.UDPConn, ip net.IP) batcher {
	if ip.To4() != nil && conn.LocalAddr().(*net.UDPAddr).IP.To4() != nil {
		return ipv4.NewPacketConn(conn)
	}
	return ipv6.NewPacketConn(conn)
}
