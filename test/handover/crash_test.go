package handover

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// occasion is when a process comes to a step.
type occasion int

const (
	carrying   occasion = iota // while it carries frames
	adopting                   // while it takes over
	leaving                    // after SIGUSR2
	connecting                 // while it makes a connection
	stopping                   // after SIGTERM
)

// stepCase says what may be lost when a process dies at a step, of the frames from the
// guest and of those to it. Nothing else is in the hands of the process but what its
// other worker has.
type stepCase struct {
	when    occasion
	out, in int
}

// stepCases has every step. Where the worker of one direction dies at a known place, the
// one of the other direction dies anywhere.
func stepCases() map[string]stepCase {
	return map[string]stepCase{
		"hold":         {when: connecting},
		"held-events":  {when: connecting},
		"published":    {when: connecting},
		"end":          {when: stopping},
		"leave":        {when: leaving},
		"adopt":        {when: adopting},
		"adopt-queue":  {when: adopting},
		"adopted":      {when: adopting},
		"tx-read":      {carrying, lossBound, lossBound},
		"tx-hand":      {carrying, 0, lossBound},
		"tx-put":       {carrying, 0, lossBound},
		"tx-put-map":   {carrying, 0, lossBound},
		"tx-commit":    {carrying, 0, lossBound},
		"tx-publish":   {carrying, 0, lossBound},
		"tx-release":   {carrying, 0, lossBound},
		"tx-consume":   {carrying, 0, lossBound},
		"rx-consume":   {carrying, lossBound, lossBound},
		"rx-write":     {carrying, lossBound, 0},
		"rx-post":      {carrying, lossBound, 0},
		"rx-repost":    {carrying, lossBound, 0},
		"rx-publish":   {carrying, lossBound, 0},
		"event-read":   {carrying, lossBound, lossBound},
		"event-unmask": {carrying, lossBound, lossBound},
	}
}

// crashSteps are the steps in the source of package netfront.
func crashSteps(t *testing.T) (steps []string) {
	t.Helper()
	source, err := os.ReadFile("../../pkg/netfront/crashpoint.go")
	must(t, err)
	for _, m := range regexp.MustCompile(`crashStep\s*=\s*"([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		steps = append(steps, m[1])
	}
	if len(steps) < 10 {
		t.Fatalf("only %d steps found in the source", len(steps))
	}
	return steps
}

// crashAtEveryStep has a process die at each step that there is, at different passes.
func crashAtEveryStep(t *testing.T, p programs) {
	steps, cases := crashSteps(t), stepCases()
	for step := range cases {
		if !slices.Contains(steps, step) {
			t.Errorf("there is no step %q any more", step)
		}
	}
	passes := []int{0, 1, 13, 150}
	if testing.Short() {
		passes = passes[:1]
	}
	w := newWorld(t, p, 1) // with one queue it is known who dies where
	d := w.connected(p.plain)
	same := w.watch()
	dropped := w.drops()
	out, in := w.streams()
	out.start(0)
	in.start(0)
	var mark [2]uint64
	for _, step := range steps {
		c, ok := cases[step]
		if !ok {
			t.Errorf("step %q: say in stepCases what may be lost there", step)
			continue
		}
		if c.when == connecting || c.when == stopping {
			continue // not under these streams, which would lose what comes meanwhile
		}
		worst := [2]int{}
		n := passes
		switch {
		case step == "adopt-queue":
			n = []int{0, 1} // tx and rx
		case c.when != carrying:
			n = []int{0}
		}
		for _, pass := range n {
			d.end(unix.SIGUSR2)
			w.die(step, pass, c.when)
			d = w.next(p.plain)
			for i, s := range []*stream{out, in} {
				now := s.settle()
				lost, bound := s.lost(mark[i], now), []int{c.out, c.in}[i]
				if worst[i] = max(worst[i], lost); lost > bound {
					t.Errorf("death at step %s:%d: %d packets lost %s, at most %d may be", step, pass, lost, s.name, bound)
				}
				s.whole()
				mark[i] = now
			}
			same.check()
		}
		report(t, "lost by death at "+step, fmt.Sprintf("%d + %d", worst[0], worst[1]), fmt.Sprintf("from + to the guest; bounds %d + %d; passes %v", c.out, c.in, n))
		if t.Failed() {
			break
		}
	}
	out.halt()
	in.halt()
	out.finish()
	in.finish()
	if now := w.drops(); !slices.Equal(now, dropped) {
		t.Errorf("dropped: %v, before %v", now, dropped)
	}
	w.stop(d)
	for _, step := range steps {
		if c := cases[step]; c.when == connecting || c.when == stopping {
			t.Run(step, func(t *testing.T) { newConnectionAfter(t, p, step, c.when) })
		}
	}
}

func crashEnv(step string, pass int) string { return fmt.Sprintf("XNETFRONTD_CRASH=%s:%d", step, pass) }

// die starts a process that is to die at a step, and sees to it that it does.
func (w *world) die(step string, pass int, when occasion) {
	w.t.Helper()
	c := w.start(w.programs.crashing, crashEnv(step, pass))
	switch when {
	case leaving:
		c.await(logTakenOver)
		c.signal(unix.SIGUSR2)
	case stopping:
		c.await(logConnected)
		c.signal(unix.SIGTERM)
	}
	c.wait()
	if !c.killed() {
		w.t.Fatalf("%v without having come to step %s:%d; it logged:\n%s", c.cmd.ProcessState, step, pass, c.text())
	}
}

// newConnectionAfter has a process die where nothing can be gone on with: the next one
// makes a new connection, on the same TAP.
func newConnectionAfter(t *testing.T, p programs, step string, when occasion) {
	w := newWorld(t, p, 2)
	w.die(step, 0, when)
	index := w.front.index(t, guestTAP)
	d := w.connected(p.plain)
	if now := w.front.index(t, guestTAP); now != index {
		t.Errorf("another TAP: %d, before %d", now, index)
	}
	w.flows()
	w.sound()
	grants, ports := len(w.grantRefs()), len(w.ports())
	w.stop(d)

	// What a connection needs that nobody died over.
	d = w.connected(p.plain)
	if g, n := len(w.grantRefs()), len(w.ports()); g != grants || n != ports {
		t.Errorf("%d grants and %d ports after the death, %d and %d without one", grants, ports, g, n)
	}
	w.stop(d)
}

// deadlyTakeOver has one process after another die while it takes over, as if that were
// what kills it: the sixth makes a new connection.
func deadlyTakeOver(t *testing.T, p programs) {
	w := newWorld(t, p, 2)
	d := w.connected(p.plain)
	index := w.front.index(t, guestTAP)
	d.kill()
	for range 5 {
		w.die("adopted", 0, adopting)
	}
	d = w.start(p.plain)
	d.await(logRefused)
	d.await(logConnected)
	w.warm() // the carriers were away
	w.flows()
	if now := w.front.index(t, guestTAP); now != index {
		t.Errorf("another TAP: %d, before %d", now, index)
	}
	w.stop(d)
}

// flows checks that frames go both ways, each once.
func (w *world) flows() {
	w.t.Helper()
	out, in := w.streams()
	out.start(500)
	in.start(500)
	for _, s := range []*stream{out, in} {
		if _, lost := s.finish(); lost != 0 {
			w.t.Errorf("%s: %d of 500 packets lost", s.name, lost)
		}
		s.whole()
	}
}
