package scenario

import (
	"context"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// detachLimit is how long libxl waits for a frontend before it takes a vif away by
// force. A frontend that follows its backend is done long before.
const detachLimit = 10 * time.Second

func attach() Scenario {
	return Scenario{
		Name: "attach",
		Proves: "two vifs at once; one is detached while it runs, and libxl need not force it; attached again it is served by the same TAP with the same " +
			"addresses, by the same daemon; the other vif loses no packet meanwhile",
		Takes: 13 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			plug(t, u, 1, lab.VifConfig{})
			vifs := serveTwo(t, u)
			first, other := vifs[0], vifs[1]
			// Both are on one bridge: without this the guest answers for either address on
			// either, and the pings of the one go through the other when that answers first.
			shell(t, u.Guest, "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore")
			t.Cleanup(func(ctx context.Context) error {
				_, err := u.Shell(ctx, "echo 0 >/proc/sys/net/ipv4/conf/all/arp_ignore")
				return err
			})
			bridged.address(t, u.Guest, first.tap, numberGuest)
			second.address(t, u.Guest, other.tap, numberGuest)
			second.address(t, t.Dom0, lab.Bridge, numberDom0)
			first.await()
			other.await()
			guest, dom0 := in(u.Guest), in(t.Dom0)
			reaches(t, dom0, ipv4(numberGuest))
			reaches(t, dom0, second.ipv4(numberGuest))
			transfer(t, guest, dom0, second.ipv4(numberDom0), 4*mib, 1)

			pinger, err := t.Dom0.Start(t.Context(), "ping", "-n", "-i", "0.2", ipv4(numberGuest))
			t.NoError(err, "start ping")
			index := other.status().IfIndex
			for range 2 {
				began := time.Now()
				unplug(t, u, 1)
				took := time.Since(began)
				if took > detachLimit {
					t.Errorf("detaching took %s: libxl gave up waiting for the frontend", took.Round(time.Millisecond))
				}
				began = time.Now()
				plug(t, u, 1, lab.VifConfig{})
				other.await()
				t.Reportf("detached in %.1f s, served again %.1f s after being attached", took.Seconds(), time.Since(began).Seconds())
				reaches(t, dom0, second.ipv4(numberGuest))
				reaches(t, guest, second.ipv6(numberDom0))
				if now := other.status().IfIndex; now != index {
					t.Errorf("the TAP's index is %d, it was %d", now, index)
				}
			}
			t.NoError(pinger.Signal(t.Context(), unix.SIGINT), "stop ping")
			r, err := pinger.Wait(t.Context())
			t.NoError(err, "wait for ping")
			p, err := parsePings(r.Stdout)
			t.NoError(err, "ping")
			// Those that were on their way when ping was stopped are nobody's loss.
			t.Require(p.received > 0 && p.received == p.last && p.sent-p.last < 5, "the other vif: %d of %d pings answered, the last one was number %d: %s", p.received, p.sent, p.last, r.Stdout)
			noFatal(t)
			unplug(t, u, 1)
			t.Require(!strings.Contains(other.log(), "pages that were given back are still in use"), "netback has unmapped all, and the daemon says it has not: %s", other.log())
			first.stop()
		},
	}
}
