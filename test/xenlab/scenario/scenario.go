// Package scenario holds what is proved on the real Xen: one file for each subject, a
// function over a T for each scenario, and the registry of them.
package scenario

import (
	"context"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Scenario is one thing that must hold on a real Xen.
type Scenario struct {
	Name    string        // what make test-xen SCENARIO= takes: a word
	Proves  string        // one sentence, for the table in the docs
	Timeout time.Duration // 0 is 5 minutes
	Run     func(t *T)
}

// T is one execution of a scenario. Fatalf and Require may be called by the goroutine
// of Run only, the rest by any.
type T struct {
	Lab  *lab.Lab
	Dom0 *lab.Guest
}

// Context ends when the scenario's time is over or the run is interrupted.
func (t *T) Context() context.Context { return context.Background() }

// Dir is a folder for files of this scenario, which stay after the run.
func (t *T) Dir() string { return "" }

// Logf writes to the scenario's log, and with -v to the terminal.
func (t *T) Logf(format string, args ...any) {}

// Reportf is Logf for figures that a reader of a run wants to see even if all is
// well: they follow the scenario's line.
func (t *T) Reportf(format string, args ...any) {}

// Errorf fails the scenario and goes on.
func (t *T) Errorf(format string, args ...any) {}

// Fatalf fails the scenario and ends Run; cleanups follow.
func (t *T) Fatalf(format string, args ...any) {}

// Require is Fatalf unless ok.
func (t *T) Require(ok bool, format string, args ...any) {}

// NoError is Fatalf if err is not nil, with what as its beginning.
func (t *T) NoError(err error, what string) {}

// Cleanup has f called after Run, the last one first. Its context does not end with
// the scenario's. An error fails the scenario.
func (t *T) Cleanup(f func(ctx context.Context) error) {}

// DomU creates a guest for this scenario alone, which is destroyed after it.
func (t *T) DomU(c lab.DomUConfig) *lab.DomU { return nil }

// SharedDomU returns a small guest with one vif (MAC 00:16:3e:77:00:01) that later
// scenarios will get too: leave it without a daemon, its vif as a stop leaves it. The
// first scenario that asks pays for its boot. After a failure the next one gets a new
// guest.
func (t *T) SharedDomU() *lab.DomU { return nil }
