package scenario

import (
	"fmt"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// roomyQueue is a txqueuelen that holds a stream while its receiver is not scheduled:
// the CPUs are emulated, and netback's own queue of 32 frames is 10 ms long then.
const roomyQueue = "10000"

func frontends() Scenario {
	return Scenario{
		Name: "frontends",
		Proves: "a guest with xnetfrontd and one with the kernel's xen-netfront talk through the bridge: " +
			"TCP both ways over IPv4 and IPv6, and no packet of a UDP stream lost, repeated, out of order or changed",
		Takes: 19 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			other := t.DomU(lab.DomUConfig{Name: "kernel", Vifs: []lab.VifConfig{{}}})
			kernelNetfront(t, other, numberOther)
			s := serve(t, u, 0, numberGuest, "--txqueuelen", roomyQueue)
			for _, vif := range []string{u.Vif(0), other.Vif(0)} {
				run(t, t.Dom0, "ip", "link", "set", vif, "txqueuelen", roomyQueue)
			}
			run(t, other.Guest, "ip", "link", "set", "eth0", "txqueuelen", roomyQueue)

			ours, kernels := in(u.Guest), in(other.Guest)
			reaches(t, ours, ipv4(numberOther))
			reaches(t, kernels, ipv6(numberGuest))
			to := transfer(t, ours, kernels, ipv4(numberOther), 4*mib, 1)
			from := transfer(t, kernels, ours, ipv4(numberGuest), 4*mib, 1)
			transfer(t, ours, kernels, ipv6(numberOther), mib, 1)
			transfer(t, kernels, ours, ipv6(numberGuest), mib, 1)
			t.Reportf("to the kernel's frontend %.0f Mbit/s, from it %.0f Mbit/s", to.MbitPerS, from.MbitPerS)
			noneWrong(t, "UDP to the kernel's frontend", stream(t, ours, kernels, ipv4(numberOther), 2000, 1000))
			noneWrong(t, "UDP from the kernel's frontend", stream(t, kernels, ours, ipv6(numberGuest), 2000, 1000))
			noFatal(t)
			s.stop()
		},
	}
}

// kernelNetfront has the kernel's xen-netfront take the vifs of a guest, and gives
// eth0, the first of them, the addresses of number n. It waits for both sides.
func kernelNetfront(t *T, u *lab.DomU, n int) {
	run(t, u.Guest, "modprobe", "xen-netfront")
	awaitLink(t, u, "eth0")
	bridged.address(t, u.Guest, "eth0", n)
	t.NoError(u.AwaitCarrier(t.Context(), 0, true), "wait for the carrier")
}

// awaitLink waits until a guest has a link that is up.
func awaitLink(t *T, u *lab.DomU, link string) {
	shell(t, u.Guest, fmt.Sprintf("until ip link set %s up 2>/dev/null; do usleep 20000; done", link))
	run(t, u.Guest, lab.AgentPath, "await-carrier", link)
}
