package scenario

import (
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

func takeover() Scenario {
	return Scenario{
		Name: "takeover",
		Proves: "prepare takes a vif from the kernel's xen-netfront, run serves it, and release gives it back: eth0 works again, twice in a row; " +
			"run and check refuse a vif that the kernel has",
		Takes: 21 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			t.NoError(u.InstallDaemon(t.Context()), "install the daemon")
			kernelNetfront(t, u, numberGuest)
			reaches(t, in(t.Dom0), ipv4(numberGuest))
			refusesTheKernels(t, u)
			for round := range 2 {
				t.Logf("round %d: %s", round, strings.TrimSpace(run(t, u.Guest, "xnetfrontd", "prepare", "--vif", "0")))
				s := serve(t, u, 0, numberGuest)
				reaches(t, in(t.Dom0), ipv4(numberGuest))
				transfer(t, in(u.Guest), in(t.Dom0), ipv4(numberDom0), 4*mib, 1)
				s.stop()
				t.Logf("round %d: %s", round, strings.TrimSpace(run(t, u.Guest, "xnetfrontd", "release", "--vif", "0")))
				awaitLink(t, u, "eth0")
				bridged.address(t, u.Guest, "eth0", numberGuest)
				t.NoError(u.AwaitCarrier(t.Context(), 0, true), "wait for the kernel's carrier")
				reaches(t, in(t.Dom0), ipv4(numberGuest))
				reaches(t, in(u.Guest), ipv6(numberDom0))
				transfer(t, in(u.Guest), in(t.Dom0), ipv4(numberDom0), 4*mib, 1)
				transfer(t, in(t.Dom0), in(u.Guest), ipv4(numberGuest), 4*mib, 1)
			}
			noFatal(t)
			// As the guest was: nobody has the vif, and nobody will take those plugged later.
			run(t, u.Guest, "xnetfrontd", "prepare", "--vif", "0")
			run(t, u.Guest, "modprobe", "-r", "xen-netfront")
		},
	}
}

// refusesTheKernels wants a vif that the kernel drives to be left alone, and the
// refusal to say how to take it.
func refusesTheKernels(t *T, u *lab.DomU) {
	for _, command := range []string{"check", "run"} {
		out, err := u.Run(t.Context(), "xnetfrontd", command, "--vif", "0")
		t.Require(err != nil, "%s accepts a vif that the kernel has: %s", command, out)
		if !strings.Contains(err.Error(), "prepare") {
			t.Errorf("%s does not say how to take the vif from the kernel: %v", command, err)
		}
	}
	reaches(t, in(t.Dom0), ipv4(numberGuest))
}
