package scenario

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// The budget of grants: gntalloc's limit of pages for the whole guest, as a kernel
// boots with it, and the pages of a queue pair with full rings.
const (
	limitPath    = "/sys/module/xen_gntalloc/parameters/limit"
	defaultLimit = 1024
	pairPages    = 2 + 2*256
)

func multiqueue() Scenario {
	return Scenario{
		Name: "multiqueue",
		Proves: "2 queue pairs both carry traffic both ways, as netback counts it; at the default limit of 1024 granted pages check says " +
			"that 2 full queues do not fit, run makes do with what fits where it may not raise the limit, and raises it where it may",
		Takes: 11 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			t.NoError(u.InstallDaemon(t.Context()), "install the daemon")
			setLimit(t, u, defaultLimit)
			checkBudget(t, u)
			reducedBudget(t, u)

			s := serve(t, u, 0, numberGuest, "--queues", "2")
			if n := number(t, u.Guest, limitPath); n < 2*pairPages {
				t.Errorf("run has left the limit at %d, 2 queues need %d pages", n, 2*pairPages)
			}
			if n := s.status().Grants; n != 2*pairPages {
				t.Errorf("%d pages are granted, 2 full queues are %d", n, 2*pairPages)
			}
			bothQueues(t, u)
			noFatal(t)
			s.stop()
			setLimit(t, u, defaultLimit)
		},
	}
}

// checkBudget wants check to say that 2 queues are too much for the limit.
func checkBudget(t *T, u *lab.DomU) {
	said := run(t, u.Guest, "xnetfrontd", "check", "--vif", "0", "--queues", "2")
	t.Logf("%s", said)
	for _, want := range []string{strconv.Itoa(2 * pairPages), strconv.Itoa(defaultLimit), "not enough"} {
		if !strings.Contains(said, want) {
			t.Errorf("check does not say %q of the grants: %s", want, said)
		}
	}
	if n := number(t, u.Guest, limitPath); n != defaultLimit {
		t.Errorf("check has changed the limit to %d", n)
	}
}

// reducedBudget serves 2 queues where the limit cannot be raised: its file is read-only.
func reducedBudget(t *T, u *lab.DomU) {
	folder := limitPath[:strings.LastIndexByte(limitPath, '/')]
	lock := fmt.Sprintf("mount --bind %[1]s %[1]s && mount -o remount,ro,bind %[1]s", folder)
	unlock := func(ctx context.Context) error {
		_, err := u.Shell(ctx, fmt.Sprintf("while umount %s 2>/dev/null; do :; done", folder))
		return err
	}
	t.Cleanup(unlock)
	shell(t, u.Guest, lock)
	s := serve(t, u, 0, numberGuest, "--queues", "2")
	st := s.status()
	t.Logf("with a limit of %d pages: %d granted, %+v", defaultLimit, st.Grants, st.Missing)
	if st.Grants == 0 || st.Grants > defaultLimit {
		t.Errorf("%d pages are granted under a limit of %d", st.Grants, defaultLimit)
	}
	if log := s.log(); !strings.Contains(log, strconv.Itoa(defaultLimit)) {
		t.Errorf("the daemon's log does not say that the limit of %d pages is too low: %s", defaultLimit, log)
	}
	reaches(t, in(t.Dom0), ipv4(numberGuest))
	transfer(t, in(u.Guest), in(t.Dom0), ipv4(numberDom0), 4*mib, 4)
	transfer(t, in(t.Dom0), in(u.Guest), ipv4(numberGuest), 4*mib, 4)
	s.stop()
	t.NoError(unlock(t.Context()), "make the limit writable again")
}

// bothQueues wants slots to be used on both rings of both queues.
func bothQueues(t *T, u *lab.DomU) {
	before := []slots{ringSlots(t, u, 0), ringSlots(t, u, 1)}
	const flows = 16 // that all take one queue is one chance in 2^15
	to := transfer(t, in(u.Guest), in(t.Dom0), ipv4(numberDom0), mib, flows)
	from := transfer(t, in(t.Dom0), in(u.Guest), ipv4(numberGuest), mib, flows)
	t.Reportf("2 queues: domU to dom0 %.0f Mbit/s, dom0 to domU %.0f Mbit/s", to.MbitPerS, from.MbitPerS)
	for q := range before {
		now := ringSlots(t, u, q)
		tx, rx := now.tx-before[q].tx, now.rx-before[q].rx
		t.Logf("queue %d: %d slots from the guest, %d to it", q, tx, rx)
		if tx < 100 || rx < 100 {
			t.Errorf("queue %d: only %d slots from the guest and %d to it", q, tx, rx)
		}
	}
}

// slots is how far netback is in the rings of a queue.
type slots struct{ tx, rx uint32 }

var ringProduced = regexp.MustCompile(`(?s)TX: .*?rsp prod (\d+).*?RX: .*?rsp prod (\d+)`)

// ringSlots reads netback's own view of a queue, in debugfs.
func ringSlots(t *T, u *lab.DomU, queue int) slots {
	path := fmt.Sprintf("/sys/kernel/debug/xen-netback/%s/io_ring_q%d", u.Vif(0), queue)
	b, err := t.Dom0.ReadFile(t.Context(), path)
	t.NoError(err, "netback's rings")
	s, ok := parseSlots(string(b))
	t.Require(ok, "%s: no ring indices in %q", path, b)
	return s
}

func parseSlots(text string) (slots, bool) {
	m := ringProduced.FindStringSubmatch(text)
	if m == nil {
		return slots{}, false
	}
	tx, err := strconv.ParseUint(m[1], 10, 32)
	rx, err2 := strconv.ParseUint(m[2], 10, 32)
	return slots{tx: uint32(tx), rx: uint32(rx)}, err == nil && err2 == nil
}

// number reads a file that holds one.
func number(t *T, g *lab.Guest, path string) int {
	b, err := g.ReadFile(t.Context(), path)
	t.NoError(err, "read")
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	t.NoError(err, path)
	return n
}

func setLimit(t *T, u *lab.DomU, pages int) {
	t.NoError(u.WriteFile(t.Context(), limitPath, []byte(strconv.Itoa(pages)), 0o644), "set the limit")
}
