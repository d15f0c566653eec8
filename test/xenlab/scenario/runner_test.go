package scenario

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// names takes all that waits in q.
func names(q *queue) string {
	var all []string
	for {
		s, ok := q.take()
		if !ok {
			return strings.Join(all, " ")
		}
		all = append(all, s.Name)
	}
}

func TestSeveralLabsBeginWithTheLongestScenariosAndOneKeepsTheOrder(t *testing.T) {
	all := []Scenario{{Name: "a", Takes: 1}, {Name: "b", Takes: 3}, {Name: "c", Takes: 1}, {Name: "d", Takes: 2}}
	if got := names(newQueue(all, 1)); got != "a b c d" {
		t.Errorf("for one lab: %s", got)
	}
	if got := names(newQueue(all, 2)); got != "b d a c" {
		t.Errorf("for two labs: %s", got)
	}
}

func TestAScenarioThatIsPutBackIsTheNextOne(t *testing.T) {
	q := newQueue([]Scenario{{Name: "a"}, {Name: "b"}}, 1)
	s, _ := q.take()
	q.putBack(s)
	if got := names(q); got != "a b" {
		t.Error(got)
	}
}

func TestEveryScenarioSaysAboutHowLongItTakes(t *testing.T) {
	for _, s := range All() {
		if limit := max(s.Timeout, defaultTimeout); s.Takes < time.Second || s.Takes > limit/2 {
			t.Errorf("%s takes %s, of at most %s", s.Name, s.Takes, limit)
		}
	}
}

func TestALabThatDoesNotBootEndsTheRunWithItsReason(t *testing.T) {
	broken := errors.New("no boot")
	var boots atomic.Int32
	var out strings.Builder
	r := &Runner{Boots: 2, Out: &out, Boot: func(context.Context, int) (*lab.Lab, error) {
		boots.Add(1)
		return nil, broken
	}}
	all := []Scenario{{Name: "a", Run: func(*T) {}}, {Name: "b", Run: func(*T) {}}, {Name: "c", Run: func(*T) {}}}
	if err := r.Run(t.Context(), all); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if n := boots.Load(); n < 1 || n > 2 {
		t.Errorf("%d boots", n)
	}
	if r.Passed+r.Failed != 0 || r.Lab() != nil {
		t.Errorf("%d passed, %d failed", r.Passed, r.Failed)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestAnInterruptedRunSaysSoOnce(t *testing.T) {
	why := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	var out strings.Builder
	r := &Runner{Boots: 2, Out: &out, Boot: func(ctx context.Context, _ int) (*lab.Lab, error) {
		cancel(why)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	all := []Scenario{{Name: "a", Run: func(*T) {}}, {Name: "b", Run: func(*T) {}}}
	if err := r.Run(ctx, all); err != why {
		t.Errorf("error %v", err)
	}
}
