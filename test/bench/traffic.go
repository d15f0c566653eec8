package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	tcpPort  = "5001"
	sinkPort = "5002"
	echoPort = "5003"

	udpPayload = 18 // with the headers the smallest Ethernet frame
	rttPayload = 64
	udpBatch   = 64
	tcpChunk   = 256 << 10 // bytes given to one send
)

// answerTimeout is how long the other end may take over anything.
const answerTimeout = 5 * time.Second

// servers are the ends that traffic goes to.
type servers struct {
	began    time.Time
	received atomic.Uint64 // UDP datagrams
	flooded  atomic.Uint64 // those of a flood under load
}

func serve() (*servers, error) {
	s := &servers{began: time.Now()}
	l, err := net.Listen("tcp4", ":"+tcpPort)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go sinkTCP(c)
		}
	}()
	sink, err := net.ListenPacket("udp4", ":"+sinkPort)
	if err != nil {
		return nil, err
	}
	go sinkUDP(ipv4.NewPacketConn(sink), &s.received)
	echo, err := net.ListenPacket("udp4", ":"+echoPort)
	if err != nil {
		return nil, err
	}
	go echoUDP(echo.(*net.UDPConn))
	return s, s.serveLoads()
}

// sinkTCP reads a connection to its end and answers with how many bytes came and in
// what time, from the first byte on.
func sinkTCP(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 1<<20)
	var n uint64
	var began time.Time
	for {
		k, err := c.Read(buf)
		if n == 0 {
			began = time.Now()
		}
		n += uint64(k)
		if err != nil {
			break
		}
	}
	var r [16]byte
	binary.BigEndian.PutUint64(r[0:], n)
	binary.BigEndian.PutUint64(r[8:], uint64(time.Since(began)))
	c.Write(r[:])
}

func sinkUDP(c *ipv4.PacketConn, received *atomic.Uint64) {
	msgs := make([]ipv4.Message, udpBatch)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	for {
		n, err := c.ReadBatch(msgs, 0)
		if err != nil {
			return
		}
		received.Add(uint64(n))
	}
}

func echoUDP(c *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		c.WriteToUDPAddrPort(buf[:n], from)
	}
}

func (s *servers) do(o order) (answer, error) {
	switch o.Op {
	case "hello":
		return answer{}, nil
	case "tcp":
		return sendTCP(o)
	case "udp":
		return answer{}, sendUDP(o)
	case "udp-received":
		return answer{Value: float64(s.received.Load()), At: time.Since(s.began)}, nil
	case "rtt":
		return roundTrips(o)
	case "load":
		return underLoad(o)
	case "flooded":
		return answer{Value: float64(s.flooded.Load())}, nil
	}
	return answer{}, fmt.Errorf("unknown order %q", o.Op)
}

// sendTCP sends for a time and returns the receiver's rate in Gbit/s.
func sendTCP(o order) (answer, error) {
	c, err := net.DialTimeout("tcp4", net.JoinHostPort(o.Peer, tcpPort), answerTimeout)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(o.For + 2*answerTimeout)); err != nil {
		return answer{}, err
	}
	buf := make([]byte, tcpChunk)
	for end := time.Now().Add(o.For); time.Now().Before(end); {
		if _, err := c.Write(buf); err != nil {
			return answer{}, err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return answer{}, err
	}
	var r [16]byte
	if _, err := io.ReadFull(c, r[:]); err != nil {
		return answer{}, err
	}
	bits := 8 * float64(binary.BigEndian.Uint64(r[0:]))
	return answer{Value: bits / float64(binary.BigEndian.Uint64(r[8:]))}, nil
}

// sendUDP sends the smallest datagrams as fast as it can for a time. The socket is
// connected, which spares the kernel a look at the routes for each.
func sendUDP(o order) error {
	c, err := net.Dial("udp4", net.JoinHostPort(o.Peer, sinkPort))
	if err != nil {
		return err
	}
	defer c.Close()
	p := ipv4.NewPacketConn(c.(*net.UDPConn))
	msgs := make([]ipv4.Message, udpBatch)
	for i := range msgs {
		msgs[i] = ipv4.Message{Buffers: [][]byte{make([]byte, udpPayload)}}
	}
	for end := time.Now().Add(o.For); time.Now().Before(end); {
		if _, err := p.WriteBatch(msgs, 0); err != nil {
			return err
		}
	}
	return nil
}

// maxLost is how many datagrams of a ping-pong may be lost: what was sent before it
// may still fill the queues.
const maxLost = 10

// roundTrips returns the median and the 99th percentile of the round trips that fit
// into a time, in µs. There is at least one.
func roundTrips(o order) (answer, error) {
	c, err := net.Dial("udp4", net.JoinHostPort(o.Peer, echoPort))
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	var times []float64
	lost := 0
	for n, first := uint64(0), time.Now(); len(times) == 0 || time.Since(first) < o.For; n++ {
		d, err := roundTrip(c, n)
		if err == nil {
			times = append(times, float64(d.Nanoseconds())/1e3)
			continue
		}
		if lost++; lost > maxLost || !errors.Is(err, os.ErrDeadlineExceeded) {
			return answer{}, fmt.Errorf("round trip %d, %d lost: %w", n, lost, err)
		}
	}
	slices.Sort(times)
	return answer{Value: times[len(times)/2], P99: times[len(times)*99/100]}, nil
}

// roundTrip sends datagram n and waits for it to come back.
func roundTrip(c net.Conn, n uint64) (time.Duration, error) {
	var out, in [rttPayload]byte
	binary.BigEndian.PutUint64(out[:], n)
	began := time.Now()
	if err := c.SetDeadline(began.Add(time.Second)); err != nil {
		return 0, err
	}
	if _, err := c.Write(out[:]); err != nil {
		return 0, err
	}
	for {
		if _, err := c.Read(in[:]); err != nil {
			return 0, err
		}
		if in == out { // and not one that was late
			return time.Since(began), nil
		}
	}
}
