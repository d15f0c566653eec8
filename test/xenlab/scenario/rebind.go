package scenario

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// rebindGoal is for the time without bytes when netback is bound anew.
const rebindGoal = 2 * time.Second

func rebind() Scenario {
	return Scenario{
		Name: "rebind",
		Proves: "netback's device is unbound and bound again, three times, under TCP flows both ways: they go on with the same hashes on the same rings, " +
			"Xen has the same grants mapped as before, and none after a stop",
		Takes: 9 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			s := serve(t, u, 0, numberGuest)
			guest, dom0 := in(u.Guest), in(t.Dom0)
			reachesSoon(t, dom0, ipv4(numberGuest))
			grants := mappedGrants(t, u)
			up := openFlow(t, guest, dom0, ipv4(numberDom0), "5003", 2*mib)
			down := openFlow(t, dom0, guest, ipv4(numberGuest), "5004", 2*mib)
			for range 3 {
				began := time.Now()
				shell(t, t.Dom0, fmt.Sprintf(`echo vif-%d-0 >/sys/bus/xen-backend/drivers/vif/unbind
					echo vif-%[1]d-0 >/sys/bus/xen-backend/drivers/vif/bind
					vif=%[2]s /etc/xen/scripts/vif-lab online`, u.ID(), u.Vif(0)))
				t.Logf("unbound, bound and in the bridge in %.2f s", time.Since(began).Seconds())
				s.await()
				reachesSoon(t, dom0, ipv4(numberGuest))
				reachesSoon(t, guest, ipv6(numberDom0))
			}
			sentUp, sentDown := finish(up), finish(down)
			within(t, "longest time without bytes", milliseconds(max(sentUp.GapMS, sentDown.GapMS)), rebindGoal)
			if st := s.status(); st.State != "Connected" {
				t.Errorf("the vif is %s: %s", st.State, st.Reason)
			}
			if n := strings.Count(s.log(), `"msg":"connected"`); n != 1 {
				t.Errorf("the daemon has connected %d times: the rings were not kept", n)
			}
			if now := mappedGrants(t, u); !slices.Equal(now, grants) {
				t.Errorf("grants of the guest mapped by others: before\n%s\nnow\n%s", strings.Join(grants, "\n"), strings.Join(now, "\n"))
			}
			s.stop()
			nothingMapped(t, u, "after a stop")
			noFatal(t)
		},
	}
}
