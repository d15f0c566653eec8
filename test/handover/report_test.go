package handover

import (
	"fmt"
	"testing"
	"time"
)

// report prints one figure.
func report(t *testing.T, name, figure, goal string) {
	t.Helper()
	t.Logf("%-58s %14s   (%s)", name, figure, goal)
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

// within prints a time and fails the test at ten times its goal.
func within(t *testing.T, name string, took, goal time.Duration) {
	t.Helper()
	report(t, name, milliseconds(took), "goal "+milliseconds(goal))
	if took > 10*goal {
		t.Errorf("%s: %s, that is above ten times the goal of %s", name, milliseconds(took), milliseconds(goal))
	}
}

func share(n int, of uint64) string { return fmt.Sprintf("%d of %d", n, of) }

// bestOf prints times, and fails the test if even the best is above ten times the goal:
// a process that starts late on a busy machine is no fault of ours.
type bestOf struct {
	t    *testing.T
	goal time.Duration
	best time.Duration
}

func (b *bestOf) add(name string, took time.Duration) {
	b.t.Helper()
	report(b.t, name, milliseconds(took), "goal "+milliseconds(b.goal))
	if took > 0 && (b.best == 0 || took < b.best) { // 0: the stream was over
		b.best = took
	}
}

func (b *bestOf) check() {
	b.t.Helper()
	if b.best > 10*b.goal {
		b.t.Errorf("the shortest gap is %s, above ten times the goal of %s", milliseconds(b.best), milliseconds(b.goal))
	}
}
