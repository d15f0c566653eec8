// Package scenario holds what is proved on the real Xen: one file for each subject, a
// function over a T for each scenario, and the registry of them.
package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Scenario is one thing that must hold on a real Xen.
type Scenario struct {
	Name    string        // what make test-xen SCENARIO= takes: a word
	Proves  string        // one sentence, for the table in the docs
	Timeout time.Duration // 0 is 10 minutes
	Takes   time.Duration // about, on a quiet machine: the longest ones begin first
	Run     func(t *T)
}

// T is one execution of a scenario. Fatalf, Require and NoError, and what calls them,
// may be called by the goroutine of Run only; the rest by any.
type T struct {
	Lab  *lab.Lab
	Dom0 *lab.Guest

	ctx     context.Context
	runner  *Runner
	machine *machine
	name    string
	dir     string
	log     *os.File
	begun   time.Time

	mu       sync.Mutex
	failures []string
	reports  []string
	cleanups []func(context.Context) error
	shared   bool // it has had the shared domU
}

// Context ends when the scenario's time is over or the run is interrupted.
func (t *T) Context() context.Context { return t.ctx }

// Dir is a folder for files of this scenario, which stay after the run. Its log is
// there, and the evidence of a failure.
func (t *T) Dir() string { return t.dir }

// Logf writes to the scenario's log, and with -v to the terminal.
func (t *T) Logf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.write(fmt.Sprintf(format, args...))
}

func (t *T) write(line string) {
	line = fmt.Sprintf("%7.2fs %s\n", time.Since(t.begun).Seconds(), strings.TrimRight(line, "\n"))
	// A log that cannot be written must not fail what is proved.
	_, _ = t.log.WriteString(line)
	if t.runner.Verbose {
		t.runner.printf("     %-12s %s", t.name, line)
	}
}

// Reportf is Logf for figures that a reader of a run wants to see even if all is
// well: they follow the scenario's line.
func (t *T) Reportf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	t.reports = append(t.reports, line)
	t.write(line)
}

// Errorf fails the scenario and goes on.
func (t *T) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	t.failures = append(t.failures, line)
	t.write("FAIL " + line)
}

// Fatalf fails the scenario and ends Run; cleanups follow.
func (t *T) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

// Require is Fatalf unless ok.
func (t *T) Require(ok bool, format string, args ...any) {
	if !ok {
		t.Fatalf(format, args...)
	}
}

// NoError is Fatalf if err is not nil, with what as its beginning.
func (t *T) NoError(err error, what string) {
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// Failed is true after Errorf.
func (t *T) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.failures) > 0
}

// Cleanup has f called after Run, the last one first. Its context does not end with
// the scenario's. An error fails the scenario.
func (t *T) Cleanup(f func(ctx context.Context) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// DomU creates a guest for this scenario alone, which is destroyed after it.
func (t *T) DomU(c lab.DomUConfig) *lab.DomU {
	begun := time.Now()
	d, err := t.Lab.CreateDomU(t.ctx, c)
	if d != nil {
		t.Cleanup(d.Destroy)
	}
	t.NoError(err, "a domU")
	t.Logf("domU %s, number %d, answers after %.1f s", d.Name, d.ID(), time.Since(begun).Seconds())
	return d
}

// SharedDomU returns a small guest with one vif that later scenarios will get too:
// leave it without a daemon, its vif as a stop leaves it. The first scenario that asks
// pays for its boot. After a failure the next one gets a new guest.
func (t *T) SharedDomU() *lab.DomU {
	t.shared = true
	m := t.machine
	if m.shared == nil {
		m.sharedMade++
		d, err := t.Lab.CreateDomU(t.ctx, lab.DomUConfig{Name: fmt.Sprintf("shared%d", m.sharedMade), Vifs: []lab.VifConfig{{}}})
		m.shared = d
		t.NoError(err, "the shared domU")
	}
	return m.shared
}

// StartDaemon starts the daemon in a domU; if it still runs after the scenario it is
// killed.
func (t *T) StartDaemon(d *lab.DomU, args ...string) *lab.Daemon {
	daemon, err := d.StartDaemon(t.ctx, args...)
	t.NoError(err, "start the daemon")
	t.Cleanup(func(ctx context.Context) error {
		// Most scenarios have ended it, and some the domU.
		_, _ = d.Shell(ctx, fmt.Sprintf("kill -9 -%d 2>/dev/null || true", daemon.Pid))
		return nil
	})
	return daemon
}

// Sh runs a script in a guest, logs it, and returns its output. A failure is fatal.
func (t *T) Sh(g *lab.Guest, script string) string {
	out, err := g.Shell(t.ctx, script)
	t.Logf("%s: %s\n%s", g.Name(), script, strings.TrimSpace(out))
	t.NoError(err, "a script")
	return out
}

// newT makes the scenario's folder and log.
func (m *machine) newT(ctx context.Context, s *Scenario) (*T, error) {
	t := &T{
		Lab: m.lab, Dom0: m.lab.Dom0(), ctx: ctx, runner: m.runner, machine: m, name: s.Name,
		dir: filepath.Join(m.lab.RunDir(), s.Name), begun: time.Now(),
	}
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	t.log, err = os.Create(filepath.Join(t.dir, "log.txt"))
	return t, err
}
