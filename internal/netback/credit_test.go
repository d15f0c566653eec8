package netback

import (
	"testing"
	"time"
)

// creditOf is a credit for so many bytes in 48 ms, which are 12 jiffies.
func creditOf(bytes uint64, now time.Time) credit {
	return newCredit(rate{bytes, 12}, now)
}

func TestCreditRunsOutAndComesBackAtTheIntervalsEnd(t *testing.T) {
	start := time.Unix(1000, 0)
	c := creditOf(200_000, start)
	for range 3 {
		if _, ok := c.take(60_000, start); !ok {
			t.Fatal("out of credit too early")
		}
	}
	wait, ok := c.take(60_000, start.Add(10*time.Millisecond))
	if ok || wait != 38*time.Millisecond {
		t.Fatalf("take: %v, wait %v", ok, wait)
	}
	// The timer is pending: asking again changes nothing.
	if wait, ok = c.take(30_000, start.Add(20*time.Millisecond)); ok || wait != 28*time.Millisecond {
		t.Fatalf("small frame: %v, wait %v", ok, wait)
	}
	if _, ok = c.take(60_000, start.Add(48*time.Millisecond)); !ok {
		t.Fatal("no credit after the interval")
	}
}

func TestCreditComesOnTimeHoweverLateItIsAskedFor(t *testing.T) {
	start := time.Unix(1000, 0)
	c := creditOf(200_000, start)
	c.take(200_000, start)
	for n := range 20 {
		due := start.Add(time.Duration(n+1) * 48 * time.Millisecond)
		if wait, ok := c.take(200_000, due.Add(-time.Millisecond)); ok || wait != time.Millisecond {
			t.Fatalf("interval %d: %v, wait %v", n, ok, wait)
		}
		if _, ok := c.take(200_000, due.Add(time.Duration(n)*time.Millisecond)); !ok { // a late worker
			t.Fatalf("interval %d: no credit", n)
		}
	}
}

func TestCreditOfASmallRateSavesUpForTheLargestFrame(t *testing.T) {
	now := time.Unix(1000, 0)
	c := creditOf(10_000, now)
	waits := 0
	for {
		wait, ok := c.take(65535, now)
		if ok {
			break
		}
		if wait != 48*time.Millisecond {
			t.Errorf("wait %v", wait)
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

func TestCreditAfterAPauseDoesNotMakeTheLargestFrameWaitForIntervalsThatPassed(t *testing.T) {
	now := time.Unix(1000, 0)
	c := creditOf(10_000, now)
	now = now.Add(time.Minute)
	var waited time.Duration
	for {
		wait, ok := c.take(65535, now)
		if ok {
			break
		}
		if wait <= 0 {
			t.Fatalf("wait %v", wait)
		}
		waited += wait
		if waited > 48*time.Millisecond {
			t.Fatal("it waits for intervals that have passed")
		}
		now = now.Add(wait)
	}
	if waited != 3*jiffy { // two intervals' credit each tick
		t.Errorf("waited %v", waited)
	}
}

func TestCreditDoesNotPileUp(t *testing.T) {
	now := time.Unix(1000, 0)
	c := creditOf(10_000, now)
	c.take(10_000, now)
	for range 100 {
		now = now.Add(time.Second)
		c.take(1<<30, now)
	}
	if c.left > creditBurst {
		t.Errorf("%d bytes saved up", c.left)
	}
}

func TestIntervalUnderAMillisecondIsATick(t *testing.T) {
	now := time.Unix(1000, 0)
	r, err := parseRate("1000,999")
	if err != nil {
		t.Fatal(err)
	}
	c := newCredit(r, now)
	for waits := 0; ; waits++ {
		wait, ok := c.take(65535, now)
		if ok {
			break
		}
		if wait != jiffy || waits > 65 {
			t.Fatalf("wait %d is %v", waits, wait)
		}
		now = now.Add(wait)
	}
}

func TestNewRateIsForAQueueThatWaitsAtOnce(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, r := range map[string]rate{"higher": {65535, 12}, "none": {noLimit, 0}} {
		c := newCredit(rate{100, 1 << 20}, now)
		if _, ok := c.take(1500, now); ok {
			t.Fatal("not limited")
		}
		c.change(r)
		if _, ok := c.take(1500, now); !ok {
			t.Errorf("%s: it still waits", name)
		}
		if c.pending || c.limited() != (r.bytes != noLimit) {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestLowerRateTakesCreditAway(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCredit(rate{noLimit, 0}, now)
	if c.limited() {
		t.Fatal("limited")
	}
	c.change(rate{100_000, 12})
	if _, ok := c.take(100_000, now); !ok {
		t.Error("no first allowance")
	}
	if _, ok := c.take(1, now); ok || !c.limited() {
		t.Error("not limited")
	}
}

func TestRateNode(t *testing.T) {
	for v, want := range map[string]rate{
		"125000,50000": {125000, 13}, "125000,48000": {125000, 12}, "1,1": {1, 0}, "0,50000": {0, 13},
	} {
		if r, err := parseRate(v); r != want || err != nil {
			t.Errorf("%q: %+v, %v", v, r, err)
		}
	}
	for _, v := range []string{"125000", "a,b", "1,2,3", "-5,50000", "1,", ",1"} {
		if r, err := parseRate(v); err == nil {
			t.Errorf("%q is %+v", v, r)
		}
		if CheckRate(v) == nil {
			t.Errorf("%q passes", v)
		}
	}
	if err := CheckRate(""); err != nil {
		t.Error(err)
	}
}

func TestRateOfNothingStopsTheQueue(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCredit(rate{0, 12}, now)
	for range 100 {
		wait, ok := c.take(60, now)
		if ok || wait <= 0 {
			t.Fatalf("%v, wait %v", ok, wait)
		}
		now = now.Add(wait)
	}
}
