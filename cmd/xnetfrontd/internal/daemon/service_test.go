package daemon

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

const patience = 20 * time.Second // with the race detector on a busy machine

// fakeFrontend is a frontend that only answers whether it is alive.
type fakeFrontend struct {
	alive func(time.Duration) error
}

func (f fakeFrontend) Run(context.Context) error         { return nil }
func (f fakeFrontend) Close() error                      { return nil }
func (f fakeFrontend) Status() netfront.Status           { return netfront.Status{} }
func (f fakeFrontend) Name() string                      { return "" }
func (f fakeFrontend) Alive(timeout time.Duration) error { return f.alive(timeout) }
func (f fakeFrontend) Kick() error                       { return netfront.ErrNotConnected }
func (f fakeFrontend) Retry()                            {}
func (f fakeFrontend) LostByClose() bool                 { return false }
func (f fakeFrontend) Dump(context.Context) (*netfront.Dump, error) {
	return nil, netfront.ErrNotConnected
}
func (f fakeFrontend) Capture(context.Context, netfront.CaptureConfig, netfront.CaptureSink) (netfront.CaptureResult, error) {
	return netfront.CaptureResult{}, netfront.ErrCapturing
}

// fakeVif are steps that a test defines.
type fakeVif struct {
	*vif
	opened, closed atomic.Int32
	onOpen, onRun  func(ctx context.Context, attempt int) error
}

func newFakeVif(devid int) *fakeVif {
	cfg := &atomic.Pointer[config.Config]{}
	cfg.Store(&config.Config{})
	table := config.NewVif(config.SelectDevID(devid))
	return &fakeVif{
		vif:    newVif(place{cfg: cfg}, table, devid, net.HardwareAddr{2, 0, 0, 0, 0, byte(devid)}),
		onOpen: func(context.Context, int) error { return nil },
		onRun:  func(ctx context.Context, _ int) error { <-ctx.Done(); return nil },
	}
}

func (f *fakeVif) open(ctx context.Context) error { return f.onOpen(ctx, int(f.opened.Add(1))) }
func (f *fakeVif) run(ctx context.Context) error  { return f.onRun(ctx, int(f.opened.Load())) }
func (f *fakeVif) close() error                   { f.closed.Add(1); return nil }

func closedChannel() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s does not come", what)
	}
}

func TestPanicOfAVifIsLoggedWithItsStackAndTheVifIsServedAgain(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	for _, where := range []string{"open", "run"} {
		v := newFakeVif(3)
		fault := func(_ context.Context, attempt int) error {
			if attempt < 3 {
				panic("a fault")
			}
			return nil
		}
		again := make(chan struct{})
		run := func(ctx context.Context, attempt int) error {
			if where == "run" {
				if err := fault(ctx, attempt); err != nil {
					return err
				}
			}
			close(again)
			<-ctx.Done()
			return nil
		}
		v.onRun = run
		if where == "open" {
			v.onOpen = fault
		}
		s := startService(t.Context(), v, zap.New(core), closedChannel(), func() {})
		await(t, "another attempt after a panic in "+where, again)
		if _, err := s.trouble(); err != nil {
			t.Errorf("it is served, and still has the problem %v", err)
		}
		s.stop(nil)
		await(t, "the end", s.done)
		if o, c := v.opened.Load(), v.closed.Load(); o != 3 || c != 3 {
			t.Errorf("opened %d times, closed %d times", o, c)
		}
	}
	list := logs.TakeAll()
	if len(list) != 3 { // the second panic of open is a repeat; those of run are none, since the vif was served between them
		t.Errorf("%d lines: %+v", len(list), list)
	}
	for _, l := range list {
		f := l.ContextMap()
		if !strings.Contains(f["error"].(string), "panic: a fault") || !strings.Contains(f["stack"].(string), "service_test.go") {
			t.Errorf("%v", f)
		}
	}
}

func TestVifThatEndsIsTriedAgainUntilItIsStopped(t *testing.T) {
	before := runtime.NumGoroutine()
	v := newFakeVif(0)
	fourth := make(chan struct{})
	v.onRun = func(_ context.Context, attempt int) error {
		if attempt == 4 {
			close(fourth)
		}
		return errors.New("xenstore is lost")
	}
	s := startService(t.Context(), v, zap.NewNop(), closedChannel(), func() {})
	await(t, "the fourth attempt", fourth)
	began := time.Now()
	s.stop(nil)
	await(t, "the end", s.done)
	if took := time.Since(began); took > retryMax/2 {
		t.Errorf("a stop while it waits took %v", took)
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines became %d", before, runtime.NumGoroutine())
		}
	}
}

func TestNoVifRunsBeforeTheDaemonIsReady(t *testing.T) {
	v := newFakeVif(0)
	ran := make(chan struct{})
	v.onRun = func(ctx context.Context, _ int) error { close(ran); <-ctx.Done(); return nil }
	begin := make(chan struct{})
	s := startService(t.Context(), v, zap.NewNop(), begin, func() {})
	await(t, "the first attempt", s.tried)
	select {
	case <-ran:
		t.Error("it runs")
	default:
	}
	close(begin)
	await(t, "the run", ran)
	s.stop(nil)
	await(t, "the end", s.done)
}

func TestFailureAtTheStartIsSaidByWhoeverEndsThen(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	v := newFakeVif(0)
	v.onOpen = func(context.Context, int) error { return errors.New("no TAP") }
	s := startService(t.Context(), v, zap.New(core), make(chan struct{}), func() {})
	await(t, "the first attempt", s.tried)
	if _, err := s.trouble(); err == nil || err.Error() != "no TAP" {
		t.Errorf("%v", err)
	}
	s.stop(nil)
	await(t, "the end", s.done)
	if n := logs.Len(); n > 0 {
		t.Errorf("logged: %+v", logs.All())
	}
}

func TestLeavingReachesTheFrontendAsTheCause(t *testing.T) {
	v := newFakeVif(0)
	cause := make(chan error, 1)
	v.onRun = func(ctx context.Context, _ int) error { <-ctx.Done(); cause <- context.Cause(ctx); return nil }
	s := startService(t.Context(), v, zap.NewNop(), closedChannel(), func() {})
	s.stop(netfront.ErrLeave)
	await(t, "the end", s.done)
	select {
	case err := <-cause:
		if !errors.Is(err, netfront.ErrLeave) {
			t.Errorf("the cause is %v", err)
		}
	default: // it was stopped before it ran
	}
}

func TestOneQueueThatHangsStarvesTheWatchdog(t *testing.T) {
	s := newSupervisor(config.Config{Vifs: []config.Vif{config.NewVif(config.SelectAll())}}, zap.NewNop())
	hangs := atomic.Bool{}
	s.make = func(table config.Vif, devid int, mac net.HardwareAddr) steps {
		v := newFakeVif(devid)
		v.id.table = table
		v.onOpen = func(context.Context, int) error {
			v.setFront(fakeFrontend{alive: func(time.Duration) error {
				if devid == 1 && hangs.Load() {
					return errors.New("queue 0: rx does not answer")
				}
				return nil
			}})
			return nil
		}
		return v
	}
	ctx, cancel := context.WithCancel(t.Context())
	vifs := []netfront.Vif{{DevID: 0, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0}}, {DevID: 1, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}
	if err := s.start(ctx, vifs); err != nil {
		t.Fatal(err)
	}
	if err := s.alive(10 * time.Millisecond); err == nil || err.Error() != "the supervisor does not answer" {
		t.Errorf("before the supervisor runs: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		s.run(ctx, nil, nil, func() {})
		s.stop(nil)
		close(ended)
	}()
	if err := s.alive(patience); err != nil {
		t.Error(err)
	}
	hangs.Store(true)
	if err := s.alive(patience); err == nil || err.Error() != "vif 1: queue 0: rx does not answer" {
		t.Errorf("with a queue that hangs: %v", err)
	}
	cancel()
	await(t, "the end", ended)
}

func TestWatchdogIsNotFedFromAHangToItsEnd(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked, fed := 0, make(chan int, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		feedWatchdog(ctx, 15*time.Millisecond, func(time.Duration) error {
			if asked++; asked == 10 {
				cancel()
			}
			if asked >= 3 && asked < 6 {
				return errors.New("hangs")
			}
			return nil
		}, func() { fed <- asked }, zap.New(core))
	}()
	await(t, "the end", ended)
	close(fed)
	var at []int
	for n := range fed {
		at = append(at, n)
	}
	if want := []int{1, 2, 6, 7, 8, 9}; len(at) != len(want) || at[2] != want[2] || logs.Len() != 2 {
		t.Errorf("fed after %v, want %v; logged %+v", at, want, logs.All())
	}
	if all := logs.FilterMessage("stacks of all goroutines").All(); len(all) != 1 || !strings.Contains(all[0].ContextMap()["stack"].(string), "feedWatchdog") {
		t.Errorf("no stacks: %+v", all)
	}
}
