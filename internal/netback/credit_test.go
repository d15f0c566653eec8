package netback

import (
	"testing"
	"time"
)

func TestCreditRunsOutAndComesBackAtTheIntervalsEnd(t *testing.T) {
	start := time.Unix(1000, 0)
	c := newCredit(200_000, 50*time.Millisecond, start)
	for range 3 {
		if _, ok := c.take(60_000, start); !ok {
			t.Fatal("out of credit too early")
		}
	}
	wait, ok := c.take(60_000, start.Add(10*time.Millisecond))
	if ok || wait != 40*time.Millisecond {
		t.Fatalf("take: %v, wait %v", ok, wait)
	}
	// A small frame that would fit does not overtake: the timer is pending.
	if wait, ok = c.take(30_000, start.Add(20*time.Millisecond)); ok || wait != 30*time.Millisecond {
		t.Fatalf("small frame: %v, wait %v", ok, wait)
	}
	if _, ok = c.take(60_000, start.Add(50*time.Millisecond)); !ok {
		t.Fatal("no credit after the interval")
	}
}

func TestCreditOfASmallRateSavesUpForTheLargestFrame(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCredit(10_000, 50*time.Millisecond, now)
	waits := 0
	for {
		wait, ok := c.take(65535, now)
		if ok {
			break
		}
		if waits++; waits > 10 {
			t.Fatal("seized up")
		}
		now = now.Add(wait)
	}
	if waits != 6 { // 10000 at first, then 6 more times
		t.Errorf("%d waits", waits)
	}
	if _, ok := c.take(4466, now); ok {
		t.Error("credit from nowhere")
	}
}

func TestCreditDoesNotPileUp(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCredit(10_000, 50*time.Millisecond, now)
	c.take(10_000, now)
	for range 100 {
		now = now.Add(time.Second)
		c.take(1<<30, now)
	}
	if c.left > creditBurst {
		t.Errorf("%d bytes saved up", c.left)
	}
}

func TestNoRateIsNoLimit(t *testing.T) {
	var c credit
	for range 1000 {
		if _, ok := c.take(65535, time.Time{}); !ok {
			t.Fatal("limited")
		}
	}
}

func TestRateNode(t *testing.T) {
	for v, want := range map[string]uint64{"125000,50000": 125000, "1,1": 1,
		"": 0, "125000": 0, "a,b": 0, "1,2,3": 0, "-5,50000": 0, "1,": 0} {
		bytes, interval, err := parseRate(v)
		if bytes != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d bytes, %v, %v", v, bytes, interval, err)
		}
	}
	if _, interval, _ := parseRate("125000,50000"); interval != 50*time.Millisecond {
		t.Errorf("interval %v", interval)
	}
}
