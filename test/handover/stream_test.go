package handover

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A packet of a stream is its number, and bytes that follow from it. Sizes vary, so
// that a frame in the wrong buffer, or with another one's end, is seen.
const (
	packetMin   = 32
	packetMax   = 1400
	sinkBuffer  = 64 << 20
	streamEvery = time.Second / 5000
)

func packet(b []byte, n uint64) []byte {
	b = b[:packetMin+int(n*37%(packetMax-packetMin))]
	binary.BigEndian.PutUint64(b, n)
	for i := 8; i < len(b); i++ {
		b[i] = byte((n + uint64(i)) * 0x9e3779b97f4a7c15 >> 56)
	}
	return b
}

// stream is numbered UDP packets, 5000 in a second, from one space to another, and what
// became of them. All its packets are one flow.
type stream struct {
	t    *testing.T
	name string
	out  *net.UDPConn
	in   *net.UDPConn
	to   netip.AddrPort

	next   atomic.Uint64 // number of the next packet to send
	late   atomic.Int64  // the most that one was sent after its time, ns
	cancel chan struct{}
	limit  uint64 // packets, 0 without end
	// lossy says that the link is to go away: the kernel may refuse packets then, and
	// sends those that waited for a neighbour beside those that did not have to.
	lossy bool
	sent  chan struct{} // closed when the last one is sent
	sunk  chan struct{} // closed when the sink has ended

	mu         sync.Mutex
	changed    chan struct{} // closed and replaced with each packet
	came       []uint64      // bits
	received   uint64
	behind     uint64 // one more than the highest number that came
	duplicated int
	reordered  int
	corrupted  int
	overflowed int
	last       time.Time
	gap        time.Duration // the longest between two packets
}

// newStream makes a stream to port at the address to. Nothing is sent before start.
func newStream(t *testing.T, name string, from, at *space, to netip.Addr, port uint16) *stream {
	t.Helper()
	s := &stream{t: t, name: name, to: netip.AddrPortFrom(to, port), cancel: make(chan struct{}),
		sent: make(chan struct{}), sunk: make(chan struct{}), changed: make(chan struct{})}
	must(t, at.Do(func() (err error) {
		s.in, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(s.to))
		return err
	}))
	t.Cleanup(s.close)
	must(t, from.Do(func() (err error) {
		s.out, err = net.ListenUDP("udp4", nil)
		return err
	}))
	raw, err := s.in.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		err = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sinkBuffer),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1))
	}))
	must(t, err)
	go s.sink()
	return s
}

// close ends the sockets.
func (s *stream) close() {
	s.in.Close()
	if s.out != nil {
		s.out.Close()
	}
}

// start sends n packets, or until stop if n is 0.
func (s *stream) start(n uint64) {
	s.limit = n
	go s.send()
	s.t.Cleanup(func() { // before that of the sockets
		s.halt()
		<-s.sent
	})
}

func (s *stream) send() {
	defer close(s.sent)
	buf := make([]byte, packetMax)
	began := time.Now()
	for n := uint64(0); s.limit == 0 || n < s.limit; n++ {
		due := began.Add(time.Duration(n) * streamEvery)
		if wait := time.Until(due); wait > 0 {
			select {
			case <-s.cancel:
				return
			case <-time.After(wait):
			}
		}
		if late := int64(time.Since(due)); late > s.late.Load() {
			s.late.Store(late)
		}
		select {
		case <-s.cancel:
			return
		default:
		}
		// A TAP never says that it is full.
		if _, err := s.out.WriteToUDPAddrPort(packet(buf, n), s.to); err != nil && !s.lossy {
			s.t.Errorf("%s: packet %d: %v", s.name, n, err)
			return
		}
		s.next.Store(n + 1)
	}
}

// halt ends the sending.
func (s *stream) halt() {
	select {
	case <-s.cancel:
	default:
		close(s.cancel)
	}
}

func (s *stream) sink() {
	defer close(s.sunk)
	buf, want, oob := make([]byte, 1<<16), make([]byte, packetMax), make([]byte, 256)
	for {
		n, oobn, _, _, err := s.in.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return // closed
		}
		at, dropped := parseControl(oob[:oobn])
		s.add(buf[:n], want, at, dropped)
	}
}

// parseControl finds in a packet's control messages when the kernel got it, and how many the
// socket has dropped.
func parseControl(oob []byte) (at time.Time, dropped int) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return at, 0
	}
	for _, m := range msgs {
		switch {
		case m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16:
			at = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		case m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4:
			dropped = int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return at, dropped
}

func (s *stream) add(b, want []byte, at time.Time, dropped int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overflowed = max(s.overflowed, dropped)
	if len(b) < packetMin {
		s.corrupted++
		return
	}
	n := binary.BigEndian.Uint64(b)
	if n > s.next.Load()+1 || string(b) != string(packet(want, n)) {
		s.corrupted++
		return
	}
	if !s.last.IsZero() {
		s.gap = max(s.gap, at.Sub(s.last))
	}
	s.last = at
	for int(n/64) >= len(s.came) {
		s.came = append(s.came, 0)
	}
	switch {
	case s.came[n/64]>>(n%64)&1 != 0:
		s.duplicated++
		return
	case n+1 <= s.behind:
		s.reordered++
	}
	s.came[n/64] |= 1 << (n % 64)
	s.received++
	s.behind = max(s.behind, n+1)
	close(s.changed)
	s.changed = make(chan struct{})
}

// awaitSent waits until that many packets were sent.
func (s *stream) awaitSent(n uint64) {
	for s.next.Load() < n {
		select {
		case <-s.sent:
			return
		case <-time.After(streamEvery):
		}
	}
}

// settle waits until a packet has come that was sent after the call: whatever was sent
// before has come then, or will not. When the last one was sent, that one has come. It returns the number before which all is settled.
func (s *stream) settle() uint64 {
	s.t.Helper()
	mark := s.next.Load()
	limit := time.After(patience)
	for {
		s.mu.Lock()
		behind, changed := s.behind, s.changed
		s.mu.Unlock()
		if behind > mark || behind == mark && s.over() {
			return mark
		}
		select {
		case <-changed:
		case <-limit:
			s.t.Fatalf("%s: nothing comes: packet %d was sent, the last that came is %d", s.name, mark, int64(behind)-1)
		}
	}
}

// over tells whether the last packet was sent.
func (s *stream) over() bool {
	select {
	case <-s.sent:
		return true
	default:
		return false
	}
}

// lost counts the packets from one number to before another that did not come.
func (s *stream) lost(from, to uint64) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := from; i < to; i++ {
		if int(i/64) >= len(s.came) || s.came[i/64]>>(i%64)&1 == 0 {
			n++
		}
	}
	return n
}

// finish waits for the last packet to be sent, gives it a moment to come, and returns
// how many were sent and how many of them did not come.
func (s *stream) finish() (sent uint64, lost int) {
	s.t.Helper()
	<-s.sent
	sent = s.next.Load()
	for limit := time.After(time.Second); ; {
		s.mu.Lock()
		behind, changed := s.behind, s.changed
		s.mu.Unlock()
		if behind == sent {
			break
		}
		select {
		case <-changed:
			continue
		case <-limit:
		}
		break
	}
	// A second copy would follow the first one closely.
	select {
	case <-s.sunk:
	case <-time.After(50 * time.Millisecond):
	}
	return sent, s.lost(0, sent)
}

// whole fails the test if a packet came twice, late or changed.
func (s *stream) whole() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.duplicated+s.corrupted+s.overflowed > 0 || s.reordered > 0 && !s.lossy {
		s.t.Errorf("%s: %d duplicated, %d reordered, %d corrupted; %d dropped by the test's own socket",
			s.name, s.duplicated, s.reordered, s.corrupted, s.overflowed)
	}
}

// longest is the longest time between two packets since the last call.
func (s *stream) longest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	gap := s.gap
	s.gap = 0
	return gap
}
