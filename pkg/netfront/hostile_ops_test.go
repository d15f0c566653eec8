package netfront

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
	"unsafe"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// opKind is what an operation does.
type opKind int

// op is one operation. Its details are drawn from rnd.
type op struct {
	kind opKind
	rnd  uint64
}

// operations are all kinds, with how often they come.
var operations = []struct {
	name   string
	weight int
	do     func(s *sim)
}{
	{"the guest sends", 12, (*sim).opFeed},
	{"a worker has a turn", 8, func(s *sim) { s.turn(s.rnd.IntN(len(s.p.workers))) }},
	{"the workers run", 10, (*sim).run},
	{"the backend answers", 8, func(s *sim) { s.back.answer(s, 1+s.rnd.IntN(fullMaps)); s.tell(s.p.txPort) }},
	{"the backend sends", 8, (*sim).opSend},
	{"the backend lies", 12, func(s *sim) { s.lie(); s.tell(s.p.txPort); s.tell(s.p.rxPort); s.run() }},
	{"the backend lies on every slot", 12, (*sim).opFlood},
	{"the backend lies in the middle of steps", 8, func(s *sim) { s.liesLeft = 1 + s.rnd.IntN(6); s.opFeed(); s.opSend(); s.run() }},
	{"an event comes late", 4, func(s *sim) { s.raise(s.rnd.IntN(len(s.events))) }},
	{"a storm of events", 1, (*sim).opStorm},
	{"time passes", 6, func(s *sim) { s.sleep(time.Duration(1+s.rnd.IntN(300)) * time.Millisecond) }},
	{"seconds pass", 2, func(s *sim) {
		for range 1 + s.rnd.IntN(40) {
			time.Sleep(time.Second)
			s.second()
		}
	}},
	{"the connection ends", 2, (*sim).reconnect},
	{"the vif moves to another domain", 1, (*sim).move},
	{"a restart", 2, (*sim).takeOver},
	{"the process dies in a step", 3, func(s *sim) { s.diesIn = 1 + s.rnd.IntN(6); s.opFeed(); s.opSend(); s.run() }},
	{"somebody asks a worker", 3, (*sim).opAsk},
	{"stations are announced", 1, (*sim).opAnnounce},
	{"the TAP refuses frames, or takes them again", 1, func(s *sim) { s.tap.fails = !s.tap.fails }},
	{"others wait for the processor, or do not", 1, func(s *sim) { s.poll.crowds = !s.poll.crowds }},
}

func (k opKind) String() string { return operations[k].name }

func newOp(r *rand.Rand) op {
	sum := 0
	for _, o := range operations {
		sum += o.weight
	}
	n := r.IntN(sum)
	for k, o := range operations {
		if n -= o.weight; n < 0 {
			return op{opKind(k), r.Uint64()}
		}
	}
	panic("weights")
}

func (s *sim) do(o op) {
	s.pcg.Seed(o.rnd, uint64(o.kind))
	operations[o.kind].do(s)
}

// raise raises the events of a worker's ports.
func (s *sim) raise(i int) {
	for _, p := range s.events[i].ports {
		s.events[i].raise(p)
	}
}

// tell raises an event, which is lost at times.
func (s *sim) tell(port xen.Port) {
	if s.rnd.IntN(8) == 0 {
		return
	}
	for _, e := range s.events {
		e.raise(port)
	}
}

// mostWaiting is how many frames wait in the TAP; it drops more.
const mostWaiting = 200

func (s *sim) opFeed() {
	for range 1 + s.rnd.IntN(12) {
		if len(s.tap.queue) < mostWaiting {
			s.tap.feed(anyFrame(s.rnd))
		}
	}
}

func (s *sim) opSend() {
	for range 1 + s.rnd.IntN(8) {
		f := &corpus[anyFrame(s.rnd)]
		var gso *netif.Extra
		if f.v.GSOType != tap.GSONone {
			e := netif.NewGSO(f.v.GSOSize, map[uint8]netif.GSOType{tap.GSOTCPv4: netif.GSOTCPv4, tap.GSOTCPv6: netif.GSOTCPv6}[f.v.GSOType])
			gso = &e
		}
		s.back.send(s, f, uint16(s.rnd.IntN(4)), gso)
	}
	s.tell(s.p.rxPort)
}

// opFlood fills the rings with lies over and over.
func (s *sim) opFlood() {
	for range 1 + s.rnd.IntN(8) {
		if s.rnd.IntN(4) == 0 {
			s.opFeed()
			s.run()
			s.lieOnTx()
		}
		s.lieOnRx()
		for i := range s.events {
			s.raise(i)
		}
		s.run()
	}
}

// mostStormTurns is how many turns a storm of events gets out of a worker in a second: some
// 16 until it is one, then two for each pause, which doubles from 1 to 256 ms, or is the 10 ms
// after which a tx queue looks for responses that it waits for.
const mostStormTurns = 16 + 2*(12+100) + 20

// opStorm raises events for nothing whenever one is taken, for a second.
func (s *sim) opStorm() {
	s.figures.Storms++
	s.run()
	i := s.rnd.IntN(len(s.events))
	steps := s.figures.Steps
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		s.raise(i)
		if s.events[i].readable() {
			s.turn(i)
			s.run()
		} else {
			s.sleep(time.Millisecond)
		}
		if n := s.figures.Steps - steps; n > uint64(mostStormTurns*len(s.events)) {
			s.fail("a storm of events got %d turns in a second", n)
		}
	}
}

// opAsk asks a worker for a dump, a sign of life, or to look at everything.
func (s *sim) opAsk() {
	w := s.p.workers[s.rnd.IntN(len(s.p.workers))]
	r := &dumpRequest{done: make(chan struct{})}
	w.dump.Store(r)
	w.control.Or(controlDump | controlPing | controlKick)
	s.run()
	for _, d := range []*RingDump{r.tx, r.rx} {
		if d != nil && len(d.Responses) > maxEvidence {
			s.fail("a dump with %d responses", len(d.Responses))
		}
	}
}

// announced begins the source address of a frame that is made here.
const announced = 0x06

func (s *sim) opAnnounce() {
	var frames [][]byte
	for range 1 + s.rnd.IntN(100) {
		f := make([]byte, 60)
		f[6], f[12], f[13] = announced, 0x88, 0xb5
		frames = append(frames, f)
	}
	s.p.txWorker().frames.Store(&frames)
	s.run()
}

// corpusFrame is a frame as it is read from the TAP, behind its virtio header.
type corpusFrame struct {
	read []byte
	v    tap.VirtioHeader
	cut  bool // into segments, by whoever cannot hand it over whole
}

// corpus has the frames that the guest and the backend send.
var corpus = makeCorpus()

// smallFrame is one that both can always send.
const smallFrame = 0

func anyFrame(r *rand.Rand) int {
	if r.IntN(4) != 0 {
		return r.IntN(6)
	}
	return r.IntN(len(corpus))
}

func makeCorpus() (c []corpusFrame) {
	add := func(v tap.VirtioHeader, frame []byte) {
		b := make([]byte, tap.VirtioHeaderSize, tap.VirtioHeaderSize+len(frame))
		v.Put(b)
		b = append(b, frame...)
		for i := range b {
			if b[i] == poison {
				b[i]++
			}
		}
		c = append(c, corpusFrame{read: b, v: v, cut: v.GSOType != tap.GSONone})
	}
	csum := tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, CsumStart: 34, CsumOffset: 16}
	csum6 := tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, CsumStart: 54, CsumOffset: 16}
	add(tap.VirtioHeader{}, patterned(60, 1))
	add(tap.VirtioHeader{}, patterned(14, 2))
	add(tap.VirtioHeader{}, patterned(1514, 3))
	add(csum, tcpFrame(60))
	add(csum, tcpFrame(1514))
	add(csum6, tcp6Frame(1514))
	for i, n := range []int{15, 300, 4084, 4085, 4096, 4097, 8192, 9014, 30000, netif.MaxTxSize} {
		add(tap.VirtioHeader{}, patterned(n, uint64(10+i)))
	}
	add(csum, tcpFrame(9000))
	for _, n := range []int{3000, 20000, netif.MaxTxSize} {
		v := csum
		v.GSOType, v.HdrLen, v.GSOSize = tap.GSOTCPv4, 54, 1448
		add(v, tcpFrame(n))
		v = csum6
		v.GSOType, v.HdrLen, v.GSOSize = tap.GSOTCPv6, 74, 1428
		add(v, tcp6Frame(n))
	}
	v := tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, GSOType: tap.GSOTCPv4, HdrLen: 58, GSOSize: 1448, CsumStart: 38, CsumOffset: 16}
	add(v, tagged(tcpFrame(8000)))
	// What no kernel reads out, and netback would disable the vif for.
	add(csum, patterned(20, 30))
	add(tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, CsumStart: 0xffff, CsumOffset: 0xffff}, tcpFrame(100))
	add(tap.VirtioHeader{GSOType: 77, GSOSize: 1}, tcpFrame(100))
	add(tap.VirtioHeader{Flags: tap.VirtioNeedsCsum, GSOType: tap.GSOTCPv6, CsumStart: 34, CsumOffset: 16}, tcpFrame(5000))
	add(tap.VirtioHeader{}, patterned(13, 31))
	return c
}

// tcp6Frame is tcpFrame with IPv6.
func tcp6Frame(n int) []byte {
	f := patterned(n, 8)
	copy(f[12:], []byte{0x86, 0xdd, 0x60, 0, 0, 0, byte((n - 54) >> 8), byte(n - 54), 6, 64})
	copy(f[22:], []byte{0xfd, 15: 1, 16: 0xfd, 31: 2})
	f[66], f[67] = 0x50, 0x10
	binary.BigEndian.PutUint16(f[70:], tap.PseudoHeaderSum(f[22:38], f[38:54], 6, n-54))
	return f
}

// noise is what the backend writes where nothing makes sense.
var noise = makeNoise()

func makeNoise() []byte {
	b := make([]byte, 1<<16)
	rand.NewChaCha8([32]byte{1}).Read(b)
	for i := range b {
		if b[i] == poison {
			b[i]++
		}
	}
	return b
}

var quiet = zap.NewNop()

// fillPoison is for much memory, often.
func fillPoison(b []byte) {
	for n := 0; n < len(b); n += copy(b[n:], poisonPages) {
	}
}

var poisonPages = bytes.Repeat([]byte{poison}, 1<<16)

// addr is for comparisons of memory that does not move.
func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

func unmap(b []byte) {
	if err := unix.Munmap(b); err != nil {
		panic(fmt.Sprintf("munmap: %v", err))
	}
}
