package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

const (
	defaultTimeout = 5 * time.Minute
	// afterTimeout is for the evidence and for the cleanups, each.
	afterTimeout = 3 * time.Minute
)

// Runner runs scenarios, one after the other, in one lab.
type Runner struct {
	// Boot boots the lab, with at least this memory. It is called before the first
	// scenario, and again after one that has brought Xen or dom0 down.
	Boot    func(ctx context.Context, memMiB, dom0MemMiB int) (*lab.Lab, error)
	Out     io.Writer
	Source  string // root of the sources, for what a scenario builds of them
	Verbose bool
	// Keep ends the run at the first failure and leaves everything as it is then.
	Keep bool

	Passed, Failed int

	lab        *lab.Lab
	shared     *lab.DomU
	sharedMade int
}

// Lab is the lab that runs, or nil.
func (r *Runner) Lab() *lab.Lab { return r.lab }

// Run runs scenarios and prints a line for each. It returns an error if the lab does
// not boot, or ctx ends: the rest did not run then.
func (r *Runner) Run(ctx context.Context, all []Scenario) error {
	mem, dom0Mem := 0, 0
	for _, s := range all {
		mem, dom0Mem = max(mem, s.MemMiB), max(dom0Mem, s.Dom0MemMiB)
	}
	for i := range all {
		if err := r.ensureLab(ctx, mem, dom0Mem); err != nil {
			return err
		}
		ok, err := r.run(ctx, &all[i])
		if err != nil {
			return err
		}
		if !ok && r.Keep {
			return nil
		}
	}
	return nil
}

// Close ends the lab.
func (r *Runner) Close() error {
	if r.lab == nil {
		return nil
	}
	err := r.lab.Close()
	r.lab, r.shared = nil, nil
	return err
}

func (r *Runner) ensureLab(ctx context.Context, mem, dom0Mem int) error {
	if r.lab != nil {
		if r.lab.Dom0().Err() == nil {
			return nil
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	begun := time.Now()
	l, err := r.Boot(ctx, mem, dom0Mem)
	if err != nil {
		return err
	}
	r.lab = l
	fmt.Fprintf(r.Out, "boot Xen and dom0%8s %5.1fs   logs in %s\n", "", time.Since(begun).Seconds(), l.RunDir())
	return nil
}

// run runs one scenario. It is an error if there is no going on.
func (r *Runner) run(ctx context.Context, s *Scenario) (ok bool, err error) {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	timed, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the scenario's %s are over", timeout))
	defer cancel()
	t, err := r.newT(timed, s)
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
	if !failed || !r.Keep {
		t.cleanUp(after)
	}
	if !failed && t.Failed() {
		t.saveEvidence(after)
	}
	r.print(s, t, took)
	return !t.Failed(), nil
}

func (r *Runner) print(s *Scenario, t *T, took time.Duration) {
	if t.Failed() {
		r.Failed++
		reason, _, _ := strings.Cut(t.failures[0], "\n")
		fmt.Fprintf(r.Out, "FAIL %-20s %5.1fs: %s; logs in %s\n", s.Name, took.Seconds(), reason, t.dir)
	} else {
		r.Passed++
		fmt.Fprintf(r.Out, "ok   %-20s %5.1fs\n", s.Name, took.Seconds())
	}
	for _, line := range t.reports {
		fmt.Fprintf(r.Out, "     %s\n", line)
	}
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
	if t.shared && t.Failed() && t.runner.shared != nil {
		if err := t.runner.shared.Destroy(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
		t.runner.shared = nil
	}
}
