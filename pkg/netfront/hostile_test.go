package netfront

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// A hostile backend against the queues, workers, pages and hand-over that run in production.
// Only what they call is simulated: the kernel's side of the TAP, of grants and of event
// channels, and time. Everything is drawn from one number, the seed:
//
//   - A schedule (newSchedule) is a configuration and a list of operations; each has a
//     number of its own from which its details are drawn, so that one which is left out
//     changes nothing of the others.
//   - The operations are in hostile_ops_test.go: frames of the guest, a backend that works,
//     one that lies, events that come, do not come, or come for nothing, time that passes,
//     connections that end, other domains, restarts, and processes that die in the middle
//     of a step.
//   - The lies are in hostile_lies_test.go: what is written to memory that the backend can
//     write. Some come in the middle of a step, whenever that calls the kernel.
//   - What must hold after every step is in hostile_check_test.go.
//
// A failure prints the seed and the fewest operations that still fail. To see it again:
//
//	make hostile SEED=...
//
// and with -hostile.keep those operations alone. See docs/security.md for what was run.
var (
	hostileSeed       = flag.Uint64("hostile.seed", 0, "run this schedule alone; 0: new ones")
	hostileKeep       = flag.String("hostile.keep", "", "with -hostile.seed: only these operations, as 1,5,7")
	hostileSchedules  = flag.Int("hostile.schedules", 0, "run so many schedules at least; 0: a number fit for every test")
	hostileSlots      = flag.Uint64("hostile.slots", 0, "and until the frontend has taken so many slots that were lied in")
	hostileViolations = flag.Uint64("hostile.violations", 0, "how many a whole Device bears; 0: a number fit for every test")
	hostileTime       = flag.Duration("hostile.time", 0, "but for so long at most, 0: without an end; that is said")
)

// hostileDefault is what every test runs.
func hostileDefault() (schedules int, slots uint64) {
	if raceEnabled || testing.Short() {
		return 300, 100_000 // test/run.sh runs the rest without the race detector
	}
	return 10_000, 10_000_000
}

// schedule is one run against a hostile backend.
type schedule struct {
	seed uint64
	simConfig
	ops []op
}

// newSchedule draws a schedule.
func newSchedule(seed uint64) schedule {
	r := rand.New(rand.NewPCG(seed, 1))
	s := schedule{seed: seed, simConfig: newSimConfig(r)}
	for range 10 + r.IntN(60) {
		s.ops = append(s.ops, newOp(r))
	}
	return s
}

// run does the operations, as many as keep says, on a simulation, and returns the first thing
// that does not hold.
func (c schedule) run(s *sim, keep []int) (err error) {
	at := -1
	defer func() {
		if p := recover(); p != nil {
			failed, ok := p.(violated)
			if !ok {
				failed = violated(fmt.Sprintf("panic: %v\n%s", p, stack()))
			}
			what := "the end"
			if at >= 0 {
				what = fmt.Sprintf("operation %d (%v)", at, c.ops[at].kind)
			}
			err = fmt.Errorf("at %s: %s", what, string(failed))
		}
	}()
	s.begin(c.simConfig)
	for _, at = range keep {
		s.do(c.ops[at])
	}
	at = -1
	s.finish()
	return nil
}

// all is every operation.
func (c schedule) all() (keep []int) {
	for i := range c.ops {
		keep = append(keep, i)
	}
	return keep
}

// minimise leaves out operations, halves first, then less, as long as the rest still fails.
func minimise(keep []int, fails func(keep []int) bool) []int {
	for n := len(keep) / 2; n >= 1; n /= 2 {
		for i := 0; i+n <= len(keep); {
			if fewer := slices.Delete(slices.Clone(keep), i, i+n); fails(fewer) {
				keep = fewer
			} else {
				i += n
			}
		}
	}
	return keep
}

// report is what a failure tells.
func (c schedule) report(keep []int, err error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %v\n", c.seed, err)
	var ids []string
	for _, i := range keep {
		ids = append(ids, strconv.Itoa(i))
		fmt.Fprintf(&b, "  operation %d: %v (%#x)\n", i, c.ops[i].kind, c.ops[i].rnd)
	}
	fmt.Fprintf(&b, "again: make hostile SEED=%d KEEP=%s", c.seed, strings.Join(ids, ","))
	return b.String()
}

func TestHostileBackendBreaksNoInvariant(t *testing.T) {
	schedules, slots := hostileDefault()
	if *hostileSchedules > 0 {
		schedules, slots = *hostileSchedules, *hostileSlots
	}
	first := uint64(time.Now().UnixNano())
	if *hostileSeed != 0 {
		first, schedules, slots = *hostileSeed, 1, 0
	}
	began := realNow()
	var seed, tick atomic.Uint64
	stop := watchForHangs(&seed, &tick)
	defer stop()
	out := func() bool { return *hostileTime > 0 && realNow()-began > *hostileTime }
	var total simFigures
	done := 0
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t)
		var settled uint64
		for ; (done < schedules || total.Taken < slots) && !out(); done++ {
			c := newSchedule(first + uint64(done))
			keep := c.all()
			if *hostileSeed != 0 && *hostileKeep != "" {
				keep = numbers(t, *hostileKeep, len(c.ops))
			}
			seed.Store(c.seed)
			tick.Add(1)
			if err := c.run(s, keep); err != nil {
				last := err
				keep = minimise(keep, func(keep []int) bool {
					tick.Add(1)
					err := c.run(newSim(t), keep)
					if err != nil {
						last = err
					}
					return err != nil
				})
				t.Fatal(c.report(keep, last))
			}
			total.add(s.figures)
			if done == 100 {
				settled = heapInUse()
			}
		}
		// 8 MiB is a fraction of what a byte for each slot that was taken would be in a soak.
		if more := int64(heapInUse() - settled); done > 1000 && more > 8<<20 {
			t.Errorf("%d bytes more in use than after 100 schedules", more)
		}
	})
	took := realNow() - began
	t.Logf("seeds %d to %d: %d schedules in %v, %.1f million slots a second; %+v", first, first+uint64(done)-1, done,
		took.Round(time.Millisecond), float64(total.Taken)/1e6/took.Seconds(), total)
	if *hostileSeed == 0 && done > 100 {
		total.mustHaveHappened(t)
	}
}

// A run that reports its seed and cannot be seen again with it would be of no use.
func TestHostileScheduleIsTheSameEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(20) {
			c := newSchedule(seed)
			var got [2]simFigures
			for i := range got {
				s := newSim(t)
				if err := c.run(s, c.all()); err != nil {
					t.Fatal(c.report(c.all(), err))
				}
				got[i] = s.figures
			}
			if got[0] != got[1] {
				t.Fatalf("seed %d: %+v, then %+v", seed, got[0], got[1])
			}
		}
	})
}

func TestMinimiseLeavesWhatFails(t *testing.T) {
	got := minimise([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, func(keep []int) bool {
		return slices.Contains(keep, 3) && slices.Contains(keep, 8)
	})
	if !slices.Equal(got, []int{3, 8}) {
		t.Fatal(got)
	}
}

// watchForHangs ends the process when a schedule takes a minute, a thousand times what one does.
// It is outside of the bubble, on the machine's clock.
func watchForHangs(seed, tick *atomic.Uint64) (stop func()) {
	end := make(chan struct{})
	go func() {
		for last := tick.Load(); ; {
			select {
			case <-end:
				return
			case <-time.After(time.Minute):
			}
			now := tick.Load()
			if now == last {
				buf := make([]byte, 1<<20)
				fmt.Fprintf(os.Stderr, "seed %d hangs\n%s\n", seed.Load(), buf[:runtime.Stack(buf, true)])
				os.Exit(2)
			}
			last = now
		}
	}()
	return func() { close(end) }
}

func numbers(t *testing.T, list string, below int) (n []int) {
	for _, f := range strings.Split(list, ",") {
		i, err := strconv.Atoi(f)
		if err != nil || i < 0 || i >= below {
			t.Fatalf("-hostile.keep %s: %q is no operation, there are %d", list, f, below)
		}
		n = append(n, i)
	}
	return n
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func stack() string {
	buf := make([]byte, 1<<14)
	return string(buf[:runtime.Stack(buf, false)])
}

// realNow is the machine's clock, in a bubble too.
func realNow() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // which knows this clock
	return time.Duration(ts.Nano())
}

// violated is what does not hold; it is panicked with.
type violated string

func (s *sim) fail(format string, args ...any) { panic(violated(fmt.Sprintf(format, args...))) }

// must is for what no backend can make fail.
func (s *sim) must(err error) {
	if err != nil {
		s.fail("%v", err)
	}
}

var errDied = errors.New("the process died")
