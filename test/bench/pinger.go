package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stampPort    = "5004" // UDP: echo with the time of arrival
	stampPayload = 160    // bytes of 20 ms of telephone speech (G.711)
	// pingInterval makes 50 pings a second, and as many round trips of a sparse flow at
	// most.
	pingInterval = 20 * time.Millisecond
	// emptyInterval is how often a ping asks whether the queues are empty.
	emptyInterval = 50 * time.Millisecond
	// emptyTimeout is how long they may take for it: a thousand super-frames at the
	// lowest rate.
	emptyTimeout = 60 * time.Second
)

// pinger sends datagrams at a pace, like a telephone, and notes when each arrived and
// when it was back.
type pinger struct {
	conn  net.Conn
	mu    sync.Mutex
	pings []ping
	last  atomic.Uint64 // number of the latest that came back
}

type ping struct {
	back         bool
	trip, oneWay float64 // ms
}

func newPinger(peer string) (*pinger, error) {
	c, err := net.Dial("udp4", net.JoinHostPort(peer, stampPort))
	if err != nil {
		return nil, err
	}
	p := &pinger{conn: c}
	go p.receive()
	return p, nil
}

// send sends ping n: its number and the time.
func (p *pinger) send(n int) error {
	var b [stampPayload]byte
	binary.BigEndian.PutUint64(b[0:], uint64(n))
	binary.BigEndian.PutUint64(b[8:], monotonic())
	_, err := p.conn.Write(b[:])
	if errors.Is(err, unix.ENOBUFS) {
		return nil // as good as lost
	}
	return err
}

// receive takes what comes back until the socket is closed.
func (p *pinger) receive() {
	var b [stampPayload]byte
	for {
		n, err := p.conn.Read(b[:])
		if err != nil {
			if errors.Is(err, unix.ECONNREFUSED) {
				continue
			}
			return
		}
		now := monotonic()
		number, sent, arrived := binary.BigEndian.Uint64(b[0:]), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
		if n != len(b) {
			continue
		}
		p.mu.Lock()
		if number < uint64(len(p.pings)) {
			p.pings[number] = ping{back: true, trip: float64(now-sent) / 1e6, oneWay: float64(arrived-sent) / 1e6}
		}
		p.mu.Unlock()
		p.last.Store(max(p.last.Load(), number))
	}
}

// ping pings until end.
func (p *pinger) ping(end time.Time) error {
	for due := time.Now(); due.Before(end); due = due.Add(pingInterval) {
		time.Sleep(time.Until(due))
		p.mu.Lock()
		n := len(p.pings)
		p.pings = append(p.pings, ping{})
		p.mu.Unlock()
		if err := p.send(n); err != nil {
			return fmt.Errorf("ping: %w", err)
		}
	}
	return nil
}

// awaitEmpty returns when a ping that was sent after all others is back: with it all
// are that will ever be, since they are one flow.
func (p *pinger) awaitEmpty() error {
	const after = 1 << 32 // numbers that no measured ping has
	began := time.Now()
	for n := after; p.last.Load() < after; n++ {
		if time.Since(began) > emptyTimeout {
			return fmt.Errorf("no ping came back for %v after the load: %w", emptyTimeout, os.ErrDeadlineExceeded)
		}
		if err := p.send(n); err != nil {
			return fmt.Errorf("ping: %w", err)
		}
		time.Sleep(emptyInterval)
	}
	return nil
}

// figures are those of all pings that there are some for.
func (p *pinger) figures() map[string]float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var trips, deltas []float64
	previous := math.NaN()
	for _, one := range p.pings {
		if !one.back {
			continue
		}
		trips = append(trips, one.trip)
		if d := math.Abs(one.oneWay - previous); !math.IsNaN(d) {
			deltas = append(deltas, d)
		}
		previous = one.oneWay
	}
	f := map[string]float64{figureLost: 100 * float64(len(p.pings)-len(trips)) / float64(max(len(p.pings), 1))}
	if len(trips) > 0 {
		f[figurePing], f[figurePing95] = mean(trips), percentile95(trips)
	}
	if len(deltas) > 0 {
		f[figureJitter] = percentile95(deltas)
	}
	return f
}

// stampUDP answers each datagram with itself and the time of its arrival in it.
func stampUDP(c *net.UDPConn) {
	var b [2048]byte
	for {
		n, from, err := c.ReadFromUDPAddrPort(b[:])
		if err != nil {
			return
		}
		if n >= 24 {
			binary.BigEndian.PutUint64(b[16:], monotonic())
			c.WriteToUDPAddrPort(b[:n], from)
		}
	}
}

// monotonic is the machine's clock in ns, the same in all processes.
func monotonic() uint64 {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // fails for no clock of this name
	return uint64(t.Nano())
}
