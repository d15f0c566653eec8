package scenario

import (
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/bench"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// latencyMbit is a limit that an emulated machine reaches easily, even a busy one.
const latencyMbit = 20

// latencySlack is how many times its goal a figure may be before the scenario fails.
const latencySlack = 10

func latency() Scenario {
	return Scenario{
		Name: "latency",
		Proves: "a guest that uploads through a vif with rate=20Mb/s stays usable: pings beside one and four TCP uploads take as long as through the kernel's " +
			"xen-netfront in the same guest, the uploads are as fast, their segments arrive, and so does UDP that nobody paces; it fails at ten times a goal",
		Takes: time.Minute,
		Run: func(t *T) {
			u := t.SharedDomU()
			plug(t, u, 1, lab.VifConfig{Rate: bench.RateOf(latencyMbit)})
			o := bench.Quick(nil)
			o.Latency = bench.Latency{Vifs: []bench.Vif{{DevID: 1, Mbit: latencyMbit}}, Flows: []int{1, 4}, Upload: 6}
			r, err := bench.Run(t.Context(), t.Lab, u, o)
			t.NoError(err, "measure")
			for _, line := range r.Lines() {
				t.Reportf("%s", line)
			}
			for _, line := range r.MissedBy(latencySlack) {
				t.Errorf("%s", line)
			}
			noFatal(t)
			unplug(t, u, 1)
		},
	}
}
