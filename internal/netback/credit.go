package netback

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// creditBurst is the least that a full allowance holds: room for the largest frame,
// or a small rate would stop the vif for good (tx_add_credit).
const creditBurst = 131072

// credit limits the bytes that a guest sends, by the backend's rate node
// (tx_credit_exceeded). Bytes come all at once at the end of each interval. The zero
// value does not limit. It belongs to the queue's tx worker.
type credit struct {
	bytes    uint64 // given per interval; 0 is no limit
	interval time.Duration
	left     uint64
	window   time.Time // when the interval began
	pending  bool      // out of credit until window, which is in the future
}

// newCredit returns the full first allowance: one interval's bytes.
func newCredit(bytes uint64, interval time.Duration, now time.Time) credit {
	return credit{bytes: bytes, interval: interval, left: bytes, window: now}
}

// take spends size bytes. If there are not enough it spends none and tells how long
// to wait before the next try; until then nothing may be taken off the ring.
func (c *credit) take(size int, now time.Time) (wait time.Duration, ok bool) {
	if c.bytes == 0 {
		return 0, true
	}
	if c.pending {
		if now.Before(c.window) {
			return c.window.Sub(now), false
		}
		c.pending = false
		c.add()
	}
	if uint64(size) > c.left {
		next := c.window.Add(c.interval)
		if !now.Before(next) {
			c.window = now
			c.add()
			next = now.Add(c.interval)
		}
		if uint64(size) > c.left {
			c.window, c.pending = next, true
			return next.Sub(now), false
		}
	}
	c.left -= uint64(size)
	return 0, true
}

// change sets a new rate (xen_net_rate_changed).
func (c *credit) change(bytes uint64, interval time.Duration) {
	if c.bytes == 0 || c.left > bytes {
		c.left = bytes
	}
	c.bytes, c.interval = bytes, interval
}

func (c *credit) add() {
	c.left = min(c.left+min(c.bytes, math.MaxUint64-c.left), max(creditBurst, c.bytes))
}

// parseRate decodes the rate node, "bytes,microseconds". Anything else, and a node
// that is not there, is no limit, as in xen_net_read_rate.
func parseRate(v string) (bytes uint64, interval time.Duration, err error) {
	b, u, found := strings.Cut(v, ",")
	bytes, berr := strconv.ParseUint(b, 10, 63)
	usec, uerr := strconv.ParseUint(u, 10, 40)
	if !found || berr != nil || uerr != nil {
		return 0, 0, fmt.Errorf("rate %q is not \"bytes,microseconds\": not limited", v)
	}
	return bytes, time.Duration(usec) * time.Microsecond, nil
}
