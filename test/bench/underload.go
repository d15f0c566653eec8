package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	sparsePort   = "5005" // TCP: echo
	floodPort    = "5006" // UDP: sink with a large buffer
	floodPayload = 1400
	// loadLead is how long uploads run before anything is measured.
	loadLead    = time.Second
	floodBuffer = 8 << 20 // bytes
	// congestionControl is what Linux uses unless it is told otherwise. Some machines
	// have another default, and one that paces itself by its own estimates (BBR) says
	// little about queues.
	congestionControl = "cubic"
)

// underLoad runs the load of an order for its time and returns the figures.
func underLoad(o order) (answer, error) {
	p, err := newPinger(o.Peer)
	if err != nil {
		return answer{}, err
	}
	defer p.conn.Close()
	if o.Flows == 0 {
		sent, err := unpaced(o)
		if err != nil {
			return answer{}, err
		}
		return answer{Value: float64(sent)}, p.awaitEmpty()
	}
	u, err := newUploads(o)
	if err != nil {
		return answer{}, err
	}
	defer u.close()
	sparse, err := dialTCP(o.Peer, sparsePort)
	if err != nil {
		return answer{}, err
	}
	defer sparse.Close()
	u.start()
	time.Sleep(loadLead)
	return measureLoad(u, p, sparse, o.For)
}

// measureLoad looks at uploads that are under way.
func measureLoad(u *uploads, p *pinger, sparse net.Conn, length time.Duration) (answer, error) {
	before, err := u.look()
	if err != nil {
		return answer{}, err
	}
	end := time.Now().Add(length)
	var trips []float64
	tripped := make(chan error, 1)
	go func() {
		var err error
		trips, err = sparseTrips(sparse, end)
		tripped <- err
	}()
	pinged := p.ping(end)
	after, err := u.look()
	u.close()
	// Only now those pings come back that wait behind the uploads.
	if err := errors.Join(err, pinged, p.awaitEmpty(), <-tripped); err != nil {
		return answer{}, err
	}
	f := p.figures()
	f[figureThroughput] = float64(after.acked-before.acked) * 8 / 1e6 / after.at.Sub(before.at).Seconds()
	f[figureResent] = 100 * float64(after.resent-before.resent) / float64(max(after.segments-before.segments, 1))
	f[figureSparse], f[figureSparse95] = mean(trips), percentile95(trips)
	return answer{Figures: f}, nil
}

// dialTCP connects with the congestion control of the measurements.
func dialTCP(peer, port string) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: answerTimeout, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestionControl)
		})
		if err != nil {
			err = fmt.Errorf("set congestion control %s: %w", congestionControl, err)
		}
		return errors.Join(cerr, err)
	}}
	c, err := d.Dial("tcp4", net.JoinHostPort(peer, port))
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// uploads are TCP connections on which bytes go out as fast as they can.
type uploads struct {
	conns []*net.TCPConn
	done  sync.WaitGroup
}

// seen is what TCP says of all uploads together.
type seen struct {
	at               time.Time
	acked            uint64 // bytes
	segments, resent uint64
}

func newUploads(o order) (*uploads, error) {
	u := &uploads{}
	for range o.Flows {
		c, err := dialTCP(o.Peer, tcpPort)
		if err != nil {
			u.close()
			return nil, err
		}
		u.conns = append(u.conns, c)
	}
	return u, nil
}

func (u *uploads) start() {
	for _, c := range u.conns {
		u.done.Go(func() {
			buf := make([]byte, tcpChunk)
			for {
				if _, err := c.Write(buf); err != nil {
					return // look finds a connection that ended too early
				}
			}
		})
	}
}

func (u *uploads) look() (seen, error) {
	s := seen{at: time.Now()}
	for _, c := range u.conns {
		raw, err := c.SyscallConn()
		if err != nil {
			return s, err
		}
		var info *unix.TCPInfo
		cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err := errors.Join(cerr, err); err != nil {
			return s, err
		}
		if info.State != unix.BPF_TCP_ESTABLISHED {
			return s, errors.New("an upload ended by itself")
		}
		s.acked += info.Bytes_acked
		s.segments += uint64(info.Data_segs_out)
		s.resent += uint64(info.Total_retrans)
	}
	return s, nil
}

// close ends the uploads at once: what they have not sent is forgotten.
func (u *uploads) close() {
	for _, c := range u.conns {
		c.SetLinger(0)
		c.Close()
	}
	u.done.Wait()
}

// sparseTrips sends a few bytes and waits for them to come back, at most 50 times a
// second until end, and returns the times that it took, in ms.
func sparseTrips(c net.Conn, end time.Time) ([]float64, error) {
	if err := c.SetDeadline(end.Add(emptyTimeout)); err != nil {
		return nil, err
	}
	var trips []float64
	var b [rttPayload]byte
	for began := time.Now(); began.Before(end); began = time.Now() {
		if _, err := c.Write(b[:]); err != nil {
			return nil, fmt.Errorf("sparse flow: %w", err)
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return nil, fmt.Errorf("sparse flow: %w", err)
		}
		trips = append(trips, milliseconds(time.Since(began)))
		time.Sleep(time.Until(began.Add(pingInterval)))
	}
	return trips, nil
}

// unpaced sends datagrams as fast as the socket takes them, and returns how many.
func unpaced(o order) (sent int, err error) {
	c, err := net.Dial("udp4", net.JoinHostPort(o.Peer, floodPort))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	p := ipv4.NewPacketConn(c.(*net.UDPConn))
	msgs := make([]ipv4.Message, udpBatch)
	for i := range msgs {
		msgs[i] = ipv4.Message{Buffers: [][]byte{make([]byte, floodPayload)}}
	}
	for end := time.Now().Add(o.For); time.Now().Before(end); {
		n, err := p.WriteBatch(msgs, 0)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return sent, err
		}
		sent += max(n, 0)
	}
	return sent, nil
}

// serveLoads opens the ends that traffic under load goes to.
func (s *servers) serveLoads() error {
	stamps, err := net.ListenPacket("udp4", ":"+stampPort)
	if err != nil {
		return err
	}
	go stampUDP(stamps.(*net.UDPConn))
	echo, err := net.Listen("tcp4", ":"+sparsePort)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c) // ends with the connection
			}()
		}
	}()
	flood, err := net.ListenPacket("udp4", ":"+floodPort)
	if err != nil {
		return err
	}
	raw, err := flood.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, floodBuffer)
	})
	if err := errors.Join(cerr, err); err != nil {
		return fmt.Errorf("set receive buffer: %w", err)
	}
	go sinkUDP(ipv4.NewPacketConn(flood), &s.flooded)
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// mean and percentile95 are of at least one figure.
func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

func percentile95(v []float64) float64 {
	sorted := slices.Sorted(slices.Values(v))
	return sorted[(len(sorted)*95+99)/100-1]
}
