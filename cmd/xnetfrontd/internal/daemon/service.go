package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// Waits between attempts to serve a vif: doubled after each that did not last.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 30 * time.Second
	// lasting is how long a vif must be served for the waits to begin anew.
	lasting = 30 * time.Second
)

// steps are the life of one vif; a [vif] implements them.
type steps interface {
	open(ctx context.Context) error
	run(ctx context.Context) error
	close() error
	identity() identity
	setTable(config.Vif)
	among([]netfront.Vif) (netfront.Vif, bool)
	frontend() frontend
}

// service serves one vif in a goroutine of its own until it is told to stop. After an error or
// a panic it writes a line to the log and tries again, at growing intervals. So a fault of one
// vif never reaches another.
type service struct {
	steps
	log     *zap.Logger
	begin   <-chan struct{} // closed when open vifs may run
	changed func()          // called after every change that status shows; does not block
	cancel  context.CancelCauseFunc
	tried   chan struct{} // closed after the first attempt to open it
	done    chan struct{} // closed when nothing of it is left

	vanished bool // the guest has no such vif any more; to be read when done

	stopping bool // of the supervisor's goroutine alone

	mu      sync.Mutex
	absent  time.Time // since when the guest has no such vif; zero: it has
	problem error     // why it is not served; nil: it is
	since   time.Time // of problem, or of its end
}

// startService begins to serve a vif. The end of ctx does not end the service: stop does.
func startService(ctx context.Context, v steps, log *zap.Logger, begin <-chan struct{}, changed func()) *service {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	s := &service{
		steps: v, log: log, begin: begin, changed: changed, cancel: cancel,
		tried: make(chan struct{}), done: make(chan struct{}), since: time.Now(),
	}
	go s.serve(ctx)
	return s
}

func (s *service) serve(ctx context.Context) {
	defer s.changed()
	defer close(s.done)
	first := sync.OnceFunc(func() { close(s.tried) })
	defer first()
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		began := time.Now()
		err := s.attempt(ctx, first)
		err = errors.Join(err, s.guard(s.close))
		if ctx.Err() != nil {
			if err != nil {
				s.log.Error("stopped, but not cleanly", logging.Problem(err), logging.Event(eventNotClean))
			}
			return
		}
		if err == nil {
			err = errors.New("it ended without a reason")
		}
		if errors.Is(err, netfront.ErrNoVif) {
			s.vanished = true
			return // the supervisor begins anew when the vif comes
		}
		if time.Since(began) > lasting {
			wait = retryMin
		}
		pause := wait/2 + rand.N(wait/2+1)
		again := s.note(err)
		first()
		// If no vif can be served, the daemon does not start, and ends with this error.
		select {
		case <-ctx.Done():
			return
		case <-s.begin:
		}
		s.report(err, again, pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// attempt opens the vif, and runs it to its end.
func (s *service) attempt(ctx context.Context, opened func()) error {
	if err := s.guard(func() error { return s.open(ctx) }); err != nil {
		return err
	}
	s.set(nil)
	opened()
	select {
	case <-ctx.Done():
		return nil
	case <-s.begin:
	}
	return s.guard(func() error { return s.run(ctx) })
}

// panicError is a panic that was caught.
type panicError struct {
	value string
	stack string
}

func (e *panicError) Error() string {
	return "panic: " + e.value + "; please report it with the stack in the log"
}

// caught makes an error of the value of a panic. Its caller is the deferred function, where
// the stack still shows the panic.
func caught(value any) *panicError {
	return &panicError{fmt.Sprint(value), string(debug.Stack())}
}

// guard calls f, and makes an error of its panic, so that the panic ends this attempt and not
// the other vifs.
func (s *service) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = caught(p)
		}
	}()
	return f()
}

// note notes why the vif is not served, and tells whether the reason is the last one again.
func (s *service) note(err error) (again bool) {
	s.mu.Lock()
	again = s.problem != nil && err != nil && s.problem.Error() == err.Error()
	s.mu.Unlock()
	s.set(err)
	return again
}

// report logs why the vif is not served. It logs the same reason again at level debug.
func (s *service) report(err error, again bool, pause time.Duration) {
	kind, cause := notServed(err)
	fields := []zap.Field{zap.String("cause", cause), logging.Problem(err), zap.Duration("retry_in", pause), logging.Event(kind)}
	var p *panicError
	if errors.As(err, &p) {
		fields = append(fields, zap.String("stack", p.stack))
	}
	if again {
		s.log.Debug("not served", fields...)
	} else {
		s.log.Error("not served", fields...)
	}
}

func (s *service) set(problem error) {
	s.mu.Lock()
	if s.problem == nil || problem == nil {
		s.since = time.Now()
	}
	s.problem = problem
	s.mu.Unlock()
	s.changed()
}

// trouble returns why the vif is not served, or nil, and since when that is so.
func (s *service) trouble() (since time.Time, problem error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since, s.problem
}

// setAbsent notes whether the vif is absent, and returns since when it is.
func (s *service) setAbsent(absent bool, now time.Time) (since time.Time, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = absent == s.absent.IsZero()
	switch {
	case !absent:
		s.absent = time.Time{}
	case changed:
		s.absent = now
	}
	return s.absent, changed
}

// away returns since when the guest does not have the vif, and until when its TAP stays; a
// zero time means until the vif is back. ok is false if the guest has the vif.
func (s *service) away() (since, until time.Time, ok bool) {
	keep := s.identity().table.Keep
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.absent.IsZero() {
		return since, until, false
	}
	if keep != config.Forever {
		until = s.absent.Add(keep)
	}
	return s.absent, until, true
}

// stop tells the service to end; done is closed when it has ended. With [netfront.ErrLeave] as
// the cause it leaves the vif to the next process.
func (s *service) stop(cause error) {
	s.stopping = true
	s.cancel(cause)
}

// ended tells whether the service has ended.
func (s *service) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// alive fails unless every worker of the vif answers within timeout. A vif without a TAP has
// no workers.
func (s *service) alive(timeout time.Duration) error {
	if f := s.frontend(); f != nil {
		return f.Alive(timeout)
	}
	return nil
}
