package netfront

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// poison fills all memory of the process that a backend must not see. Neither the guest's
// frames nor the backend's own writes have four such bytes in a row.
const poison = 0xd7

// simConfig is what a schedule has of its own.
type simConfig struct {
	features Features
	maps     int
	gather   bool // the TAP is held back to a rate
	captured bool
}

func newSimConfig(r *rand.Rand) simConfig {
	c := simConfig{features: AllFeatures(), maps: minMaps, gather: r.IntN(8) == 0, captured: r.IntN(16) == 0}
	for _, f := range []*bool{&c.features.SG, &c.features.Csum, &c.features.CsumIPv6, &c.features.SplitChannels} {
		*f = r.IntN(4) != 0
	}
	// As negotiate has it.
	c.features.CsumIPv6 = c.features.CsumIPv6 && c.features.Csum
	c.features.GSOv4 = c.features.SG && c.features.Csum && r.IntN(4) != 0
	c.features.GSOv6 = c.features.SG && c.features.CsumIPv6 && r.IntN(4) != 0
	switch r.IntN(16) {
	case 0:
		c.maps = fullMaps
	case 1, 2, 3:
		c.maps = 64
	}
	return c
}

// simFigures say what has happened.
type simFigures struct {
	Taken, Lied                             uint64 // slots that were lied in: taken by the frontend, written
	Steps, Violations, Connections, Domains uint64
	Handovers, Deaths, Stalls, Refused      uint64
	Sent, Received, Cut, Midstep, Storms    uint64
}

func (f *simFigures) add(o simFigures) {
	f.Taken += o.Taken
	f.Lied += o.Lied
	f.Steps += o.Steps
	f.Violations += o.Violations
	f.Connections += o.Connections
	f.Domains += o.Domains
	f.Handovers += o.Handovers
	f.Deaths += o.Deaths
	f.Stalls += o.Stalls
	f.Refused += o.Refused
	f.Sent += o.Sent
	f.Received += o.Received
	f.Cut += o.Cut
	f.Midstep += o.Midstep
	f.Storms += o.Storms
}

// mustHaveHappened fails if a kind of thing never did: then the schedules test nothing of it.
func (f simFigures) mustHaveHappened(t *testing.T) {
	if min(f.Violations, f.Domains, f.Handovers, f.Deaths, f.Stalls, f.Refused, f.Sent, f.Received, f.Cut, f.Midstep, f.Storms) == 0 {
		t.Errorf("some of this never happened: %+v", f)
	}
}

// sim is a vif of one queue pair, whose backend and kernel are simulated. One goroutine has it.
type sim struct {
	simConfig
	figures simFigures
	pcg     rand.PCG
	rnd     *rand.Rand // of the operation at hand

	poll   *poller // never parked in
	tapFD  int     // in its epoll instance, for a worker that gathers
	memory txMemory
	txSt   txState
	rxSt   rxState
	kernel *simGrants
	events []*simEvents // of each worker
	tap    simTAP

	peer  xen.DomID
	g     *granted
	pages pairGrants
	p     *pair // with its queues and workers
	clock seconds
	dog   *watchdog
	due   []time.Time // of each worker: when its pause ends; zero: it has none
	again []bool      // of each worker: it would go on at once
	back  simBackend

	liesLeft int // that come in the middle of steps
	diesIn   int // calls of the kernel until the process dies; 0: it does not
	check    checks
}

func newSim(t *testing.T) *sim {
	s := &sim{}
	s.rnd = rand.New(&s.pcg)
	var err error
	if s.poll, err = newPoller(); err != nil {
		t.Fatal(err)
	}
	if s.memory, err = newTxMemory(); err != nil {
		t.Fatal(err)
	}
	fillPoison(s.memory.arena)
	free := s.memory.close
	s.memory.state, s.memory.close = &s.txSt, func() error { return nil }
	if s.tapFD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	if err := s.poll.add(s.tapFD, readyTAP, unix.EPOLLET); err != nil {
		t.Fatal(err)
	}
	s.kernel = &simGrants{free: map[int][]*simPages{}, refs: map[xen.GrantRef]*simPages{}}
	s.tap.s = s
	t.Cleanup(func() {
		s.poll.close()
		unix.Close(s.tapFD)
		free()
		s.kernel.unmap()
	})
	return s
}

// begin begins a schedule.
func (s *sim) begin(c simConfig) {
	s.simConfig, s.figures = c, simFigures{}
	s.tap.reset()
	s.check.lastSeq = 0
	s.poll.crowds = false
	s.peer = 1
	s.liesLeft, s.diesIn = 0, 0
	s.clock.Store(1)
	s.pcg.Seed(0, 0)
	s.meet()
	s.connect()
}

// meet begins with a domain that the guest has granted nothing to.
func (s *sim) meet() {
	s.g = &granted{peer: s.peer, grants: s.kernel}
	s.tap.repoison()
}

// connect makes a connection as trySession and newPair do, on the pages of the last one.
func (s *sim) connect() {
	s.figures.Connections++
	s.txSt, s.rxSt = txState{}, rxState{}
	var err error
	s.pages, err = s.g.pair(0, s.maps)
	s.must(err)
	s.p = &pair{rings: s.pages.rings}
	s.events = nil
	for i := range s.workersOf() {
		e := &simEvents{s: s, first: xen.Port(1 + 100*i)}
		s.events = append(s.events, e)
		s.p.workers = append(s.p.workers, s.worker(e))
	}
	s.p.txPort, err = s.p.txWorker().bind(s.peer)
	s.must(err)
	s.p.rxPort = s.p.txPort
	if s.features.SplitChannels {
		s.p.rxPort, err = s.p.rxWorker().bind(s.peer)
		s.must(err)
	}
	ring := s.pages.rings.Bytes()
	s.check.zeroed(s)
	tag, slab, err := newDMA(s.g.grants, s.peer, true, s.pages.tx)
	s.must(err)
	s.p.tx, err = newTxQueue(s.memory, ring[:xen.PageSize], tag, slab, &s.tap, s.features, s.p.txWorker().notifier(s.p.txPort))
	s.must(err)
	tag, slab, err = newDMA(s.g.grants, s.peer, false, s.pages.rx)
	s.must(err)
	s.p.rx, err = newRxQueue(&s.rxSt, ring[xen.PageSize:], tag, slab, &s.tap, s.p.rxWorker().notifier(s.p.rxPort))
	s.must(err)
	s.back = newSimBackend(s)
	s.check.begin()
	s.assign()
}

// assign gives the workers their queues, as pair.assign does, and lets a watchdog watch them.
func (s *sim) assign() {
	s.p.tx.ages.clock = &s.clock
	s.p.txWorker().tx, s.p.rxWorker().rx = s.p.tx, s.p.rx
	s.p.txWorker().tapFD = s.tapFD
	fillPoison(s.p.rx.heads)
	if s.gather {
		s.p.tx.gather.Store(int64(gatherMost))
	}
	if s.captured {
		wake := make(chan struct{}, 1)
		s.p.tx.capture.Store(newRecorder(true, netif.MaxTxSize, captureBufferMin, wake))
		s.p.rx.capture.Store(newRecorder(false, netif.MaxTxSize, captureBufferMin, wake))
	}
	s.dog = newWatchdog([]*pair{s.p}, true, 0, quiet)
	s.due = make([]time.Time, len(s.p.workers))
	s.again = make([]bool, len(s.p.workers))
	s.tap.edge = true
	s.check.step(s)
}

func (s *sim) workersOf() int { return pairConfig{features: s.features}.workers() }

func (s *sim) worker(e *simEvents) *worker {
	return &worker{poll: s.poll, events: e, ports: make([]xen.Port, 1), done: make(chan struct{}), pong: make(chan struct{}, 1)}
}

// turn lets a worker have a turn, and tells whether it would have another one at once.
func (s *sim) turn(i int) (more bool) {
	w, e := s.p.workers[i], s.events[i]
	ready := readiness(0)
	if e.readable() {
		ready |= readyPort
	}
	if w.tx != nil && s.tap.edge && !w.gather.on {
		ready |= readyTAP
		s.tap.edge = false
	}
	if due := s.due[i]; !due.IsZero() && !time.Now().Before(due) {
		ready |= readyTimeout
	}
	s.figures.Steps++
	s.due[i] = time.Time{}
	n, pause, err := s.turned(w, ready)
	switch {
	case errors.Is(err, errDied):
		s.check.published(s)
		s.takeOver()
		return false
	case errors.Is(err, ErrViolation):
		s.figures.Violations++
		s.check.violation(s)
		s.reconnect()
		return false
	case err != nil:
		s.fail("a worker ends: %v", err)
	case n == nextEnd:
		s.fail("a worker ends")
	}
	if n == nextPark && pause > 0 {
		s.due[i] = time.Now().Add(pause)
	}
	s.again[i] = n != nextPark
	s.check.step(s)
	return s.again[i]
}

// turned is the turn, with the death of the process for an error.
func (s *sim) turned(w *worker, ready readiness) (n next, pause time.Duration, err error) {
	defer func() {
		if p := recover(); p != nil {
			if p != any(errDied) {
				panic(p)
			}
			err = errDied
		}
	}()
	return w.turn(ready)
}

// mostTurns is how many turns a worker has in a row without anything from outside: the ring
// and the TAP are done by then, however long their frames are.
const mostTurns = 1000

// run lets all workers have turns until they park. What is in the TAP is bounded, and so is
// what the backend does in the middle of steps.
func (s *sim) run() {
	for turns := 0; ; turns++ {
		busy := false
		for i := 0; i < len(s.p.workers); i++ { // there may be fewer or more after a turn
			if s.again[i] || s.ready(i) {
				busy = true
				s.turn(i)
			}
		}
		if !busy {
			return
		}
		if turns == mostTurns {
			s.fail("%d turns, and no end", turns)
		}
	}
}

// ready tells whether something would wake a worker.
func (s *sim) ready(i int) bool {
	w := s.p.workers[i]
	return s.events[i].readable() || w.tx != nil && s.tap.edge && !w.gather.on || w.control.Load() != 0 || w.frames.Load() != nil
}

// sleep lets time pass; whoever waits for it has a turn. A pause is a millisecond at least.
func (s *sim) sleep(d time.Duration) {
	end := time.Now().Add(d)
	for turns := 0; ; turns++ {
		first := -1
		for i, due := range s.due {
			if !due.IsZero() && (first < 0 || due.Before(s.due[first])) {
				first = i
			}
		}
		if first < 0 || s.due[first].After(end) {
			break
		}
		time.Sleep(time.Until(s.due[first]))
		if s.turn(first) {
			s.run()
		}
		if turns > int(d/time.Millisecond)*4+mostTurns {
			s.fail("%d turns in %v", turns, d)
		}
	}
	time.Sleep(time.Until(end))
}

// second is one of the Device's: its clock and the watchdog.
func (s *sim) second() {
	s.clock.Add(1)
	if !s.dog.due() {
		return
	}
	err := s.dog.look(time.Now())
	switch {
	case errors.Is(err, errNoProgress), errors.Is(err, errStalled):
		s.figures.Stalls++
		s.reconnect()
	case err != nil:
		s.fail("watchdog: %v", err)
	}
}

// reconnect ends the connection for good, and makes the next one to the same domain.
func (s *sim) reconnect() {
	s.close()
	s.connect()
}

func (s *sim) close() {
	s.check.leaked(s)
	s.must(errors.Join(s.p.tx.close(), s.p.rx.close()))
}

// move gives the vif to another domain. The old one may keep what it has mapped.
func (s *sim) move() {
	s.figures.Domains++
	s.close()
	s.must(s.g.shrink(0))
	s.check.granted(s, 0)
	s.peer = s.peer%7 + 1
	s.meet()
	s.connect()
}

// takeOver is a process that dies, in the middle of a step perhaps, and the next one, which
// goes on where it was.
func (s *sim) takeOver() {
	s.figures.Handovers++
	s.diesIn = 0
	unmap(s.p.rx.heads) // which went with the process
	old := s.p
	s.p = &pair{rings: s.pages.rings, txPort: old.txPort, rxPort: old.rxPort}
	for _, e := range s.events {
		s.p.workers = append(s.p.workers, s.worker(e))
	}
	s.must(s.p.txWorker().adopt(s.p.txPort))
	if s.p.rxPort != s.p.txPort {
		s.must(s.p.rxWorker().adopt(s.p.rxPort))
	}
	if err := s.adopt(); err != nil {
		if !errors.Is(err, ErrHandover) {
			s.fail("hand-over: %v", err)
		}
		if !s.back.lied {
			s.fail("hand-over after no lie: %v", err)
		}
		s.figures.Refused++
		s.check.leaked(s)
		s.connect()
		return
	}
	s.check.adopted(s)
	s.assign()
}

// adopt is the part of pair.adopt that makes the queues.
func (s *sim) adopt() error {
	ring := s.pages.rings.Bytes()
	tag, slab, err := newDMA(s.g.grants, s.peer, true, s.pages.tx)
	s.must(err)
	s.p.tx, err = adoptTxQueue(s.memory, ring[:xen.PageSize], tag, slab, &s.tap, s.features, s.p.txWorker().notifier(s.p.txPort))
	if err != nil {
		return err // and the process gives pool and slab up with the connection
	}
	tag, slab, err = newDMA(s.g.grants, s.peer, false, s.pages.rx)
	s.must(err)
	s.p.rx, err = adoptRxQueue(&s.rxSt, ring[xen.PageSize:], tag, slab, &s.tap, s.p.rxWorker().notifier(s.p.rxPort))
	return err
}

// finish is the end of a schedule: whatever was done before, the next connection works and
// nothing is left after it.
func (s *sim) finish() {
	s.liesLeft, s.diesIn, s.tap.fails = 0, 0, false
	s.tap.queue = s.tap.queue[:0]
	s.reconnect()
	s.exchange()
	s.close()
	s.must(s.g.shrink(0))
	s.check.granted(s, 0)
}

// exchange has a frame go each way.
func (s *sim) exchange() {
	sent, received := s.figures.Sent, s.figures.Received
	s.tap.feed(smallFrame)
	s.events[0].raise(s.p.txPort)
	for range 3 { // a TAP that is held back is looked at later
		s.run()
		s.sleep(2 * gatherMost)
	}
	s.back.answer(s, fullMaps)
	if !s.back.send(s, &corpus[smallFrame], 0, nil) {
		s.fail("no room for a frame on a new rx ring")
	}
	s.events[len(s.events)-1].raise(s.p.rxPort)
	s.run()
	if s.figures.Sent != sent+1 || s.figures.Received != received+1 {
		s.fail("a new connection sent %d frames and received %d, want one each", s.figures.Sent-sent, s.figures.Received-received)
	}
}

// call is called whenever the frontend calls the kernel: the backend can do something in the
// meantime, and the process can die over it.
func (s *sim) call() {
	if s.diesIn > 0 {
		if s.diesIn--; s.diesIn == 0 {
			s.figures.Deaths++
			panic(errDied)
		}
	}
	if s.liesLeft > 0 && s.rnd.IntN(3) == 0 {
		s.liesLeft--
		s.figures.Midstep++
		s.lie()
	}
}
