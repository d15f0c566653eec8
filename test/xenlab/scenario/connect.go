package scenario

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// jumboBridge is for the vif with the large MTU: a bridge's MTU is that of its smallest
// port, once it was never set by hand.
const jumboBridge = "xenbr9000"

func connect() Scenario {
	return Scenario{
		Name:   "connect",
		Proves: "a vif connects: backend state 4, carrier in dom0, ping both ways over IPv4 and IPv6, with an MTU of 1500 and of 9000",
		Takes:  15 * time.Second,
		Run: func(t *T) {
			run(t, t.Dom0, "ip", "link", "add", jumboBridge, "type", "bridge")
			t.Cleanup(func(ctx context.Context) error {
				_, err := t.Dom0.Run(ctx, "ip", "link", "del", jumboBridge)
				return err
			})
			jumbo.address(t, t.Dom0, jumboBridge, numberDom0)
			u := t.DomU(lab.DomUConfig{Name: "connect", Vifs: []lab.VifConfig{{MTU: 1500}, {MTU: 9000, Bridge: jumboBridge}}})
			vifs := serveTwo(t, u)
			for i, c := range []struct {
				network
				mtu int
			}{{bridged, 1500}, {jumbo, 9000}} {
				s := vifs[i]
				c.address(t, u.Guest, s.tap, numberGuest)
				s.await()
				if got := number(t, u.Guest, "/sys/class/net/"+s.tap+"/mtu"); got != c.mtu {
					t.Errorf("the TAP's MTU is %d, the toolstack says %d", got, c.mtu)
				}
				if got := number(t, t.Dom0, "/sys/class/net/"+u.Vif(i)+"/mtu"); got != c.mtu {
					t.Errorf("dom0's interface has an MTU of %d, the toolstack says %d", got, c.mtu)
				}
				pingWhole(t, t.Dom0, c.network, numberGuest, c.mtu)
				pingWhole(t, u.Guest, c.network, numberDom0, c.mtu)
			}
			vifs[0].stop() // of both
			const initWait = 2
			for devid := range vifs {
				t.NoError(u.AwaitBackend(t.Context(), devid, initWait), "the backend after a stop")
				t.NoError(u.AwaitCarrier(t.Context(), devid, false), "no carrier after a stop")
			}
		},
	}
}

// pingWhole sends a few small packets, and a few as large as the MTU, which must not be
// fragmented, over IPv4 and IPv6, all at a time.
func pingWhole(t *T, from *lab.Guest, w network, to, mtu int) {
	const header4, header6 = 20 + 8, 40 + 8 // IP's and ICMP's
	pings := map[string]*lab.Process{}
	for _, c := range []struct {
		address string
		payload int
	}{{w.ipv4(to), 56}, {w.ipv4(to), mtu - header4}, {w.ipv6(to), 56}, {w.ipv6(to), mtu - header6}} {
		// Whoever answers late is not lost: the machine may be slow.
		argv := []string{"ping", "-q", "-c", "5", "-i", "0.2", "-W", "5", "-M", "do", "-s", strconv.Itoa(c.payload), c.address}
		p, err := from.Start(t.Context(), argv...)
		t.NoError(err, "start ping")
		pings[strings.Join(argv, " ")] = p
	}
	for what, p := range pings {
		r, err := p.Wait(t.Context())
		t.NoError(err, what)
		t.Logf("%s: %s\n%s", from.Name(), what, strings.TrimSpace(r.Stdout))
		t.Require(strings.Contains(r.Stdout, " 5 received"), "%s: %s: %s%s", from.Name(), what, r.Stdout, r.Stderr)
	}
}
