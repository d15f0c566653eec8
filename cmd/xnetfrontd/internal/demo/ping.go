package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"
)

// echo is ICMP or ICMPv6 echo (RFC 792, RFC 4443 section 4).
type echo struct {
	network        string // of net.ListenIP
	request, reply byte   // types
}

var (
	echoV4 = echo{"ip4:icmp", 8, 0}
	echoV6 = echo{"ip6:ipv6-icmp", 128, 129}
)

const (
	pingCount    = 10
	pingTimeout  = time.Second
	pingInterval = 50 * time.Millisecond
	echoHeader   = 8
	echoPayload  = 56
)

// ping is the outcome of a series of echo requests.
type ping struct {
	sent int
	rtts []time.Duration // of the replies, sorted
}

func (p ping) String() string {
	if len(p.rtts) == 0 {
		return fmt.Sprintf("%d sent, no reply", p.sent)
	}
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	return fmt.Sprintf("%d of %d replies, min %.3f / median %.3f / max %.3f ms", len(p.rtts), p.sent,
		ms(p.rtts[0]), ms(p.rtts[len(p.rtts)/2]), ms(p.rtts[len(p.rtts)-1]))
}

// pinger sends echo requests from a side to one address, through a raw socket.
type pinger struct {
	conn *net.IPConn
	kind echo
	to   *net.IPAddr
	id   uint16
	seq  uint16
}

func newPinger(s *side, kind echo, to net.IP) (*pinger, error) {
	p := &pinger{kind: kind, to: &net.IPAddr{IP: to}, id: uint16(os.Getpid())}
	err := s.Do(func() (err error) {
		p.conn, err = net.ListenIP(kind.network, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open raw socket: %w", err)
	}
	return p, nil
}

func (p *pinger) close() { p.conn.Close() }

// reach sends requests until one is answered. The first ones get lost while the carrier comes
// on, and the kernel asks for the neighbour's address again only after a second.
func (p *pinger) reach(ctx context.Context) error {
	deadline := time.Now().Add(connectTimeout)
	for {
		_, err := p.once(ctx)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(deadline) {
			return err
		}
	}
}

// series sends pingCount requests one after the other. Lost ones are not an error.
func (p *pinger) series(ctx context.Context) (ping, error) {
	var r ping
	for r.sent < pingCount {
		rtt, err := p.once(ctx)
		r.sent++
		switch {
		case err == nil:
			r.rtts = append(r.rtts, rtt)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return r, err
		}
		if err := pause(ctx, pingInterval); err != nil {
			return r, err
		}
	}
	slices.Sort(r.rtts)
	return r, nil
}

// once sends a request and waits for its reply.
func (p *pinger) once(ctx context.Context) (time.Duration, error) {
	p.seq++
	// The end of ctx ends the wait at once.
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	start := time.Now()
	if err := p.conn.SetDeadline(start.Add(pingTimeout)); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if _, err := p.conn.WriteToIP(p.message(), p.to); err != nil {
		return 0, fmt.Errorf("send echo request to %s: %w", p.to, err)
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := p.conn.ReadFromIP(buf)
		if err != nil {
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			return 0, fmt.Errorf("wait for echo reply from %s: %w", p.to, err)
		}
		b := buf[:n]
		if n == echoHeader+echoPayload && b[0] == p.kind.reply && from.IP.Equal(p.to.IP) &&
			binary.BigEndian.Uint16(b[4:]) == p.id && binary.BigEndian.Uint16(b[6:]) == p.seq {
			return time.Since(start), nil
		}
	}
}

// message is type u8 @0, code u8 @1, checksum u16 @2, identifier u16 @4, sequence
// number u16 @6, payload. The kernel fills in ICMPv6's checksum.
func (p *pinger) message() []byte {
	m := make([]byte, echoHeader+echoPayload)
	m[0] = p.kind.request
	binary.BigEndian.PutUint16(m[4:], p.id)
	binary.BigEndian.PutUint16(m[6:], p.seq)
	sum := uint32(0)
	for i := 0; i < len(m); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
	return m
}

// pause waits for d, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
