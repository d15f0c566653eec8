package scenario

import (
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/bench"
)

// benchmark keeps make bench-xen from rotting: a sample with each of its tools. The
// figures of one short pair prove nothing.
func benchmark() Scenario {
	return Scenario{
		Name: "bench",
		Proves: "make bench-xen works: the vif goes from nobody to the kernel's xen-netfront, to xnetfrontd and back under iperf3 and ping, " +
			"with offloads off and on; the figures themselves prove nothing",
		Takes: 15 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			metrics, _, err := bench.Choose([]string{"plain-rx", "udp-tx", "ping"})
			t.NoError(err, "choose metrics")
			r, err := bench.Run(t.Context(), t.Lab, u, bench.Quick(metrics))
			t.NoError(err, "bench")
			for _, line := range r.Lines() {
				t.Reportf("%s", line)
			}
		},
	}
}
