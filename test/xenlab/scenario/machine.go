package scenario

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

const (
	defaultTimeout = 10 * time.Minute
	// afterTimeout is for the evidence and for the cleanups, each.
	afterTimeout = 3 * time.Minute
)

// machine is a lab that runs scenarios, one after the other. One goroutine uses it.
type machine struct {
	runner *Runner
	cpus   int // what the lab gets

	lab        *lab.Lab
	shared     *lab.DomU
	sharedMade int
}

// serve runs scenarios until none waits. It is an error if there is no going on.
func (m *machine) serve(ctx context.Context, waiting *queue) error {
	for {
		s, ok := waiting.take()
		if !ok {
			return nil
		}
		if err := m.ensureLab(ctx); err != nil {
			waiting.putBack(s)
			return err
		}
		ok, err := m.run(ctx, &s)
		if err != nil || !ok && m.runner.Keep {
			return err
		}
	}
}

// close ends the lab.
func (m *machine) close() error {
	if m.lab == nil {
		return nil
	}
	err := m.lab.Close()
	m.lab, m.shared = nil, nil
	return err
}

func (m *machine) ensureLab(ctx context.Context) error {
	if m.lab != nil {
		if m.lab.Dom0().Err() == nil {
			return nil
		}
		if err := m.close(); err != nil {
			return err
		}
	}
	begun := time.Now()
	l, err := m.runner.Boot(ctx, m.cpus)
	if err != nil {
		return err
	}
	m.lab = l
	m.runner.printf("boot Xen and dom0%8s %5.1fs   logs in %s\n", "", time.Since(begun).Seconds(), l.RunDir())
	return nil
}

// run runs one scenario. It is an error if there is no going on.
func (m *machine) run(ctx context.Context, s *Scenario) (ok bool, err error) {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	timed, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the scenario's %s are over", timeout))
	defer cancel()
	t, err := m.newT(timed, s)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, t.log.Close()) }()
	t.execute(s.Run)
	took := time.Since(t.begun)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	after := context.WithoutCancel(ctx)
	failed := t.Failed()
	if failed {
		t.saveEvidence(after)
	}
	if !failed || !m.runner.Keep {
		t.cleanUp(after)
	}
	if !failed && t.Failed() {
		t.saveEvidence(after)
	}
	m.runner.done(s, t, took)
	return !t.Failed(), nil
}

// execute runs f, which may end by Goexit or panic, in a goroutine of its own.
func (t *T) execute(f func(*T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				t.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		f(t)
	}()
	<-done
}

func (t *T) saveEvidence(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, afterTimeout)
	defer cancel()
	if err := t.Lab.SaveEvidence(ctx, t.dir); err != nil {
		t.Logf("evidence that could not be had: %v", err)
	}
}

// cleanUp calls the cleanups, the last one first, and gives up the shared domU if the
// scenario has failed.
func (t *T) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, afterTimeout, errors.New("the time for cleaning up is over"))
	defer cancel()
	for {
		t.mu.Lock()
		n := len(t.cleanups)
		if n == 0 {
			t.mu.Unlock()
			break
		}
		f := t.cleanups[n-1]
		t.cleanups = t.cleanups[:n-1]
		t.mu.Unlock()
		if err := f(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
	}
	if t.shared && t.Failed() && t.machine.shared != nil {
		if err := t.machine.shared.Destroy(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
		t.machine.shared = nil
	}
}
