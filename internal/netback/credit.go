package netback

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	// creditBurst is the least that a full allowance holds: room for the largest frame,
	// or a small rate would stop the vif for good (tx_add_credit).
	creditBurst = 131072
	// noLimit is the credit of a vif without a rate.
	noLimit = math.MaxUint64
	// jiffy is how finely the kernel counts an interval, at 250 ticks a second as
	// distributions build it: the 50 ms that libxl asks for are 52.
	jiffy = 4 * time.Millisecond
)

// rate is a limit on what a queue sends: bytes, which come all at once at the end of
// each interval.
type rate struct {
	bytes    uint64 // noLimit is none
	interval int64  // jiffies
}

// credit limits the bytes that a guest sends on a queue, by the backend's rate node
// (tx_credit_exceeded). It belongs to the queue's tx worker.
type credit struct {
	rate
	epoch   time.Time // where jiffies are counted from
	left    uint64
	window  int64 // jiffy in which the interval began, or will begin
	pending bool  // a timer will add credit, and until then nothing goes
	expires int64 // jiffy in which it does
}

// newCredit returns the full first allowance: one interval's bytes.
func newCredit(r rate, now time.Time) credit {
	return credit{rate: r, epoch: now, left: r.bytes}
}

// limited tells whether frames need take.
func (c *credit) limited() bool { return c.bytes != noLimit }

// take spends size bytes. If there are not enough it spends none and tells how long
// to wait before the next try; until then nothing may be taken off the ring.
func (c *credit) take(size int, now time.Time) (wait time.Duration, ok bool) {
	today := int64(now.Sub(c.epoch) / jiffy)
	if c.pending && today >= c.expires {
		c.expire()
	}
	if uint64(size) > c.left && c.exceeded(uint64(size), today) {
		return c.epoch.Add(time.Duration(c.expires) * jiffy).Sub(now), false
	}
	c.left -= uint64(size)
	return 0, true
}

// exceeded is asked when size is more than what is left. After a pause it adds one
// interval's credit, and where that is not enough sets the timer for the end of the
// interval from before the pause, which has passed: a frame that needs the credit of
// several intervals does not wait for them again.
func (c *credit) exceeded(size uint64, today int64) bool {
	if c.pending {
		return true
	}
	next := c.window + c.interval
	if today >= next {
		c.window = today
		c.add()
	}
	if size > c.left {
		c.window, c.pending, c.expires = next, true, max(next, today+1)
	}
	return c.pending
}

// expire is the timer (xenvif_tx_credit_callback).
func (c *credit) expire() {
	c.pending = false
	c.add()
}

// change sets a new rate. A queue that waits for credit gets the new one at once
// (xen_net_rate_changed).
func (c *credit) change(r rate) {
	c.rate = r
	if c.pending {
		c.expire()
		return
	}
	c.left = min(c.left, r.bytes)
}

func (c *credit) add() {
	c.left = min(c.left+min(c.bytes, math.MaxUint64-c.left), max(creditBurst, c.bytes))
}

// CheckRate tells whether netback can read v as a rate node. An empty one is none.
func CheckRate(v string) error {
	if v == "" {
		return nil
	}
	_, err := parseRate(v)
	return err
}

// parseRate decodes the rate node, "bytes,microseconds" (xen_net_read_rate). 0 bytes
// are a limit like others: nothing goes. Of the interval whole milliseconds count,
// rounded up to jiffies.
func parseRate(v string) (rate, error) {
	b, u, found := strings.Cut(v, ",")
	bytes, berr := strconv.ParseUint(b, 10, 64)
	usec, uerr := strconv.ParseUint(u, 10, 40)
	if !found || berr != nil || uerr != nil {
		return rate{}, fmt.Errorf("rate %q is not \"bytes,microseconds\"", v)
	}
	interval := time.Duration(usec/1000) * time.Millisecond
	return rate{bytes, int64((interval + jiffy - 1) / jiffy)}, nil
}
