package scenario

import (
	"fmt"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

func connect() Scenario {
	return Scenario{
		Name:   "connect",
		Proves: "a vif connects: backend state 4, carrier in dom0, ping both ways over IPv4 and IPv6, with an MTU of 1500 and of 9000",
		Takes:  15 * time.Second,
		Run: func(t *T) {
			for _, mtu := range []int{1500, 9000} {
				connectWithMTU(t, mtu)
			}
		},
	}
}

// connectWithMTU connects a vif for which the toolstack says this MTU.
func connectWithMTU(t *T, mtu int) {
	ctx := t.Context()
	d := t.DomU(lab.DomUConfig{Name: fmt.Sprintf("connect%d", mtu), Vifs: []lab.VifConfig{{MTU: mtu}}})
	daemon := t.StartDaemon(d, "run", "--vif=0", "--tap=xnf0")

	t.NoError(d.AwaitBackend(ctx, 0, 4), "backend state 4")
	t.NoError(d.AwaitCarrier(ctx, 0, true), "carrier of dom0's interface")
	t.Sh(d.Guest, `ip link set xnf0 up
ip addr add 10.77.0.2/24 dev xnf0
ip addr add fd77::2/64 dev xnf0 nodad`)
	if got := strings.TrimSpace(t.Sh(d.Guest, "cat /sys/class/net/xnf0/mtu")); got != fmt.Sprint(mtu) {
		t.Errorf("the TAP's MTU is %s, the toolstack says %d", got, mtu)
	}
	// The bridge's own MTU follows its ports' smallest, once it was never set by hand.
	if got := strings.TrimSpace(t.Sh(t.Dom0, "cat /sys/class/net/"+d.Vif(0)+"/mtu")); got != fmt.Sprint(mtu) {
		t.Errorf("dom0's interface has an MTU of %s, the toolstack says %d", got, mtu)
	}
	for _, from := range []struct {
		guest  *lab.Guest
		v4, v6 string // the other side's
	}{{t.Dom0, "10.77.0.2", "fd77::2"}, {d.Guest, lab.Dom0IPv4, lab.Dom0IPv6}} {
		pingWhole(t, from.guest, from.v4, mtu-28) // IPv4 and ICMP headers
		pingWhole(t, from.guest, from.v6, mtu-48)
	}
	t.NoError(daemon.Stop(ctx), "stop the daemon")
	t.NoError(d.AwaitBackend(ctx, 0, 2), "backend state 2 after a stop")
	t.NoError(d.AwaitCarrier(ctx, 0, false), "no carrier after a stop")
	t.NoError(d.Destroy(ctx), "destroy the domU")
}

// pingWhole sends a few small packets and a few with this much payload, which must not be
// fragmented. The first may find a bridge that does not know where to send it to.
func pingWhole(t *T, from *lab.Guest, to string, payload int) {
	for _, size := range []int{56, payload} {
		out := t.Sh(from, fmt.Sprintf("ping -q -c 5 -i 0.2 -W 5 -M do -s %d %s", size, to))
		t.Require(strings.Contains(out, " 5 received"), "%s: ping -s %d %s: %s", from.Name(), size, to, out)
	}
}
