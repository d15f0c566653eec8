package netfront

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// dropped is how many frames the TAP has dropped. A test takes what it was before: for some
// moments after a link has got its carrier its disciplines are not in place yet, which is
// done by a worker of the kernel's (linkwatch_event), and what is sent then is dropped and
// counted (noop_enqueue of net/sched/sch_generic.c).
func (w *world) dropped() uint64 { return w.dev.Status().Link.TxDropped }

// flood is a UDP socket of the guest that sends as much as it is let, to nobody, until
// the test ends. Sent is how many datagrams it got rid of.
type flood struct {
	w    *world
	fd   int
	stop chan struct{}
	done chan int
}

func (w *world) flood() *flood {
	w.t.Helper()
	link, err := netlink.LinkByName(w.dev.Name())
	w.check(err)
	addr, err := netlink.ParseAddr("198.51.100.1/24")
	w.check(err)
	w.check(netlink.AddrReplace(link, addr))
	w.check(netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: net.IPv4(198, 51, 100, 2), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 2}}))
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	w.check(err)
	w.check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 10000}))
	w.check(unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{198, 51, 100, 2}}))
	f := &flood{w: w, fd: fd, stop: make(chan struct{}), done: make(chan int, 1)}
	go func() {
		datagram, sent := make([]byte, 1400), 0
		for {
			select {
			case <-f.stop:
				f.done <- sent
				return
			default:
			}
			if unix.Send(fd, datagram, 0) == nil {
				sent++
			}
		}
	}()
	return f
}

// end stops it and returns how many datagrams the guest's kernel took from it.
func (f *flood) end() int {
	close(f.stop)
	n := <-f.done
	unix.Close(f.fd)
	return n
}

// The bound that counts: not more than two periods' bytes wait with the backend; and nothing
// is dropped on the way there. A backend that gets no CPU for a moment has more; without the
// shaping it has 370 KB at each look.
func TestFramesForASlowBackendWaitInTheGuestsDiscipline(t *testing.T) {
	const perSecond, period = 1_000_000, 50 * time.Millisecond
	log, logs := observer.New(zap.InfoLevel)
	w := newWorld(t, worldConfig{
		vif:   xensim.VifConfig{Rate: "50000,50000"},
		front: Config{Logger: zap.New(log)},
	})
	w.connected(1)
	if st := w.dev.Status().Shaping; st.Mode != ShapingRate || st.Limit != perSecond || len(st.Rates) != 1 || st.Rates[0] != 950_000 {
		t.Fatalf("shaping: %+v", st)
	}
	f := w.flood()
	w.eventually("frames to wait in the discipline", func() bool {
		q := w.dev.Status().Queues[0].Wait.Qdisc
		return q != nil && q.Frames > 20
	})
	before := w.dropped()
	const bound = uint32(2 * perSecond * period / time.Second)
	row := 0
	w.eventually("two megabytes to be carried, and ten looks in a row to find no more than the bound on the ring", func() bool {
		s := w.dev.Status()
		if row++; s.Queues[0].Wait.RingBytes > bound {
			row = 0
		}
		return s.Queues[0].Tx.Counters["bytes"] > 2*perSecond && row >= 10
	})
	s := w.dev.Status()
	if n := s.Link.TxDropped - before; n != 0 || s.Queues[0].Wait.Qdisc.Dropped != 0 {
		t.Errorf("dropped: %d at the TAP, %d in the discipline", n, s.Queues[0].Wait.Qdisc.Dropped)
	}
	if c := s.Queues[0].Wait.Carried; c < perSecond/2 || c > 2*perSecond {
		t.Errorf("it says that %d bytes a second are carried", c)
	}
	f.end()
	if n := logs.FilterField(event(EventShaped)).Len(); n != 1 {
		t.Errorf("it was said %d times: %v", n, logs.All())
	}
}

func TestFramesForAFastBackendAreNotHeldBack(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	f := w.flood()
	w.eventually("64 MiB to be carried", func() bool { return w.dev.Status().Queues[0].Tx.Counters["bytes"] > 64<<20 })
	f.end()
	if s := w.dev.Status(); s.Shaping.Mode != ShapingOpen || len(s.Shaping.Rates) != 0 {
		t.Errorf("shaping: %+v", s.Shaping)
	}
	if _, shaped, err := w.dev.link.Shapers(); shaped || err != nil {
		t.Errorf("the TAP is shaped: %t, %v", shaped, err)
	}
}

// A backend can be slow without saying so: the uplink behind it is.
func TestFramesForABackendThatTurnsOutSlowAreHeldBack(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.connected(1)
	w.check(w.vif.LimitTx("50000,50000"))
	f := w.flood()
	w.eventually("frames to be held back", func() bool { return w.dev.Status().Shaping.Mode == ShapingMeasured })
	w.eventually("little to be on the ring", func() bool {
		wait := w.dev.Status().Queues[0].Wait
		return wait.RingBytes < 100_000 && wait.Qdisc != nil && wait.Qdisc.Frames > 20
	})
	f.end()
}

func TestRestartGoesOnWithTheShapingAndLosesNothing(t *testing.T) {
	w, _ := newKeptWorld(t, worldConfig{vif: xensim.VifConfig{Rate: "50000,50000"}})
	w.connected(1)
	f := w.flood()
	waits := func() bool {
		q := w.dev.Status().Queues
		return len(q) == 1 && q[0].Wait.Qdisc != nil && q[0].Wait.Qdisc.Frames > 20
	}
	w.eventually("frames to wait in the discipline", waits)
	before := w.dropped()
	for range 3 {
		w.leave()
		w.begin()
		w.eventually("the takeover", func() bool { return w.dev.Status().TakenOver && w.dev.Status().Shaping.Mode == ShapingRate })
		w.eventually("frames to wait in the discipline", waits)
	}
	f.end()
	s := w.dev.Status()
	if n := s.Link.TxDropped - before; n != 0 || s.Queues[0].Wait.Qdisc.Dropped != 0 {
		t.Errorf("dropped: %d at the TAP, %d in the discipline", n, s.Queues[0].Wait.Qdisc.Dropped)
	}
}

func TestRateThatTheToolstackChangesIsFollowedAtOnce(t *testing.T) {
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Rate: "50000,50000"}})
	w.connected(1)
	path := w.dev.Status().Backend + "/rate"
	for _, c := range []struct {
		rate string
		want uint64
		mode ShapingMode
	}{{"100000,50000", 1_900_000, ShapingRate}, {"nonsense", tap.MaxShapeRate, ShapingOpen}, {"200000,100000", 1_900_000, ShapingRate}} {
		w.check(w.server.Toolstack().Write(context.Background(), path, c.rate))
		w.eventually("rate "+c.rate, func() bool {
			st := w.dev.Status().Shaping
			return st.Mode == c.mode && (len(st.Rates) == 1 && st.Rates[0] == c.want) == (c.mode == ShapingRate)
		})
	}
	if n := w.dev.Status().Connects; n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestDisciplineOfTheAdministratorStaysAndIsSaid(t *testing.T) {
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Rate: "50000,50000"}, offline: true})
	link, err := netlink.LinkByName(w.dev.Name())
	w.check(err)
	w.check(netlink.QdiscReplace(&netlink.GenericQdisc{QdiscType: "pfifo",
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}}))
	w.backend(w.config)
	w.connected(1)
	w.eventually("the refusal", func() bool { return w.dev.Status().Shaping.Mode == ShapingRefused })
	if st := w.dev.Status().Shaping; st.Reason == "" || len(st.Rates) != 0 {
		t.Errorf("shaping: %+v", st)
	}
	list, err := netlink.QdiscList(link)
	if err != nil || len(list) != 1 || list[0].Type() != "pfifo" {
		t.Errorf("disciplines %v: %v", list, err)
	}
}

func TestShapingThatIsSwitchedOffTouchesNothing(t *testing.T) {
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{Rate: "50000,50000"}, front: Config{NoShaping: true}})
	w.connected(1)
	if st := w.dev.Status().Shaping; st.Mode != ShapingOff {
		t.Errorf("shaping: %+v", st)
	}
	link, err := netlink.LinkByName(w.dev.Name())
	w.check(err)
	if _, shaped, err := w.dev.link.Shapers(); shaped || err != nil || link.Attrs().GSOMaxSize != tap.MaxGSOSize {
		t.Errorf("shaped is %t, super-frames have %d bytes: %v", shaped, link.Attrs().GSOMaxSize, err)
	}
}

func TestRatesAreReadAsNetbackReadsThem(t *testing.T) {
	for _, c := range []struct {
		rate sendRate
		want uint64
	}{
		{sendRate{}, 0},
		{sendRate{187_500, 50 * time.Millisecond}, 3_750_000},
		{sendRate{1, time.Hour}, 1},
		{sendRate{1 << 31, time.Microsecond}, tap.MaxShapeRate},
	} {
		if got := c.rate.perSecond(); got != c.want {
			t.Errorf("%+v: %d bytes a second, want %d", c.rate, got, c.want)
		}
	}
}

var errNoShaper = errors.New("no htb")

// brokenLink is a TAP in a kernel without the disciplines.
type brokenLink struct{ shapedLink }

func (brokenLink) Shape([]uint64) error { return errNoShaper }

func TestKernelWithoutTheDisciplineIsSaidOnce(t *testing.T) {
	log, logs := observer.New(zap.InfoLevel)
	w := newWorld(t, worldConfig{})
	w.connected(1)
	var shown ShapingStatus
	s := &shaping{link: brokenLink{w.dev.link}, log: zap.New(log), mode: ShapingOpen, pacers: make([]pacer, 1), sent: make([]uint64, 1),
		fast: time.NewTicker(time.Hour), show: func(st ShapingStatus) { shown = st }}
	defer s.stop()
	for range 3 {
		s.setLimit(sendRate{50_000, 50 * time.Millisecond})
		s.look()
		s.wake()
	}
	if shown.Mode != ShapingRefused || shown.Reason != errNoShaper.Error() || logs.Len() != 1 {
		t.Errorf("%+v, said %d times", shown, logs.Len())
	}
}
