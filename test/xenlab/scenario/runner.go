package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Runner runs scenarios, in one lab one after the other, or in several labs at a time.
type Runner struct {
	// Boot boots a lab with so many CPUs. It is called for the first scenario of each lab,
	// and again after one that has brought Xen or dom0 down; by several goroutines if Boots
	// is more than one.
	Boot    func(ctx context.Context, cpus int) (*lab.Lab, error)
	Boots   int // labs at a time, if the machine has room for them; 0 is 1
	MemMiB  int // what a lab takes, see [lab.MemMiB]
	Out     io.Writer
	Source  string // root of the sources, for what a scenario builds of them
	Verbose bool
	// Keep ends the run at the first failure and leaves everything as it is then. It is
	// for one lab at a time.
	Keep bool

	Stands string // what the labs stand on

	Passed, Failed int
	Outcomes       []Outcome // in the order in which they ended

	machines []*machine
	packages packages

	mu sync.Mutex // for the two counts, and for lines that go to Out
}

// Outcome is how a scenario ended.
type Outcome struct {
	Scenario string
	Failure  string // the first line of what failed; empty: it passed
}

// Lab is the first lab if it runs, or nil.
func (r *Runner) Lab() *lab.Lab {
	if len(r.machines) == 0 {
		return nil
	}
	return r.machines[0].lab
}

// Run runs scenarios and prints a line for each when it ends. It returns an error if a
// lab does not boot, which others survive, or ctx ends: the rest did not run then.
func (r *Runner) Run(ctx context.Context, all []Scenario) error {
	labs, cpus, why := lab.Room(max(1, min(r.Boots, len(all))), r.MemMiB)
	if why != "" {
		r.printf("%s\n", why)
	}
	waiting := newQueue(all, labs)
	errs := make([]error, labs)
	var running sync.WaitGroup
	for i := range labs {
		m := &machine{runner: r, cpus: cpus}
		r.machines = append(r.machines, m)
		running.Go(func() { errs[i] = m.serve(ctx, waiting) })
	}
	running.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}

// Close ends the labs.
func (r *Runner) Close() error {
	var errs []error
	for _, m := range r.machines {
		errs = append(errs, m.close())
	}
	return errors.Join(errs...)
}

// queue is the scenarios that nobody has begun.
type queue struct {
	mu   sync.Mutex
	left []Scenario
}

// newQueue keeps the order for one lab. Several have the longest ones first, so that no
// long one is left when the others are idle.
func newQueue(all []Scenario, labs int) *queue {
	q := &queue{left: slices.Clone(all)}
	if labs > 1 {
		slices.SortStableFunc(q.left, func(a, b Scenario) int { return cmp.Compare(b.Takes, a.Takes) })
	}
	return q
}

// take returns the next scenario.
func (q *queue) take() (s Scenario, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.left) == 0 {
		return s, false
	}
	s, q.left = q.left[0], q.left[1:]
	return s, true
}

// putBack is for a lab that cannot run what it has taken.
func (q *queue) putBack(s Scenario) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.left = slices.Insert(q.left, 0, s)
}

// done counts and prints how a scenario has ended.
func (r *Runner) done(s *Scenario, t *T, took time.Duration) {
	var text strings.Builder
	failed, reason := t.Failed(), ""
	if failed {
		reason, _, _ = strings.Cut(t.failures[0], "\n")
		fmt.Fprintf(&text, "FAIL %-20s %5.1fs: %s; logs in %s\n", s.Name, took.Seconds(), reason, t.dir)
	} else {
		fmt.Fprintf(&text, "ok   %-20s %5.1fs\n", s.Name, took.Seconds())
	}
	for _, line := range t.reports {
		fmt.Fprintf(&text, "     %s\n", line)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Outcomes = append(r.Outcomes, Outcome{s.Name, reason})
	if failed {
		r.Failed++
	} else {
		r.Passed++
	}
	// A terminal that is gone must not fail what is proved.
	_, _ = io.WriteString(r.Out, text.String())
}

func (r *Runner) printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.Out, format, args...)
}
