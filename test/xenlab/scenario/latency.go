package scenario

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
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
			"xen-netfront in the same guest, the uploads are as fast, their segments arrive, and so does UDP that nobody paces; 20 small flows beside an upload get their turns; it fails at ten times a goal",
		Takes: 75 * time.Second,
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
			fair(t, u)
			noFatal(t)
			unplug(t, u, 1)
		},
	}
}

const (
	sparseFlows    = 20
	sparseRequests = 15
	sparseRate     = 5 // requests a second
	// sparseWait is ten times what a request of the worst flow takes on a machine that is
	// busy: the guest's one CPU also has to start a process for each.
	sparseWait = 10 * time.Second
)

// fair sends requests over many small flows beside one large one: the guest's queueing
// discipline gives each flow its turn.
func fair(t *T, u *lab.DomU) {
	s := start(t, u, 1)
	s.await()
	second.address(t, t.Dom0, lab.Bridge, numberDom0)
	second.address(t, u.Guest, s.tap, numberGuest)
	guest, dom0 := in(u.Guest), in(t.Dom0)
	reachesSoon(t, guest, second.ipv4(numberDom0))
	answer := dom0.listen(t, "answer", port("", "5003"))
	sink := dom0.listen(t, "receive", port("", "5001"), "--timeout="+patience)
	upload := guest.launch(t, "send", port(second.ipv4(numberDom0), "5001"), fmt.Sprintf("--bytes=%d", latencyMbit*mib), "--timeout="+patience)
	var flows []*tool
	for range sparseFlows {
		flows = append(flows, guest.launch(t, "ask", port(second.ipv4(numberDom0), "5003"),
			fmt.Sprintf("--requests=%d", sparseRequests), fmt.Sprintf("--rate=%d", sparseRate)))
	}
	best, worst := math.Inf(1), 0.0
	for i, f := range flows {
		a := result[traffic.Asked](f)
		if a.Answered != sparseRequests {
			t.Errorf("flow %d beside an upload: %d of %d requests were answered", i, a.Answered, sparseRequests)
		}
		best, worst = min(best, a.AverageMS), max(worst, a.AverageMS)
	}
	sent := result[traffic.Sent](upload)
	_, err := sink.Wait(t.Context())
	t.NoError(err, "wait for the upload")
	t.NoError(answer.Signal(t.Context(), unix.SIGTERM), "stop answering")
	t.Reportf("%d small flows beside an upload of %.1f Mbit/s: a request takes %.0f ms in the best of them, %.0f in the worst", sparseFlows, sent.MbitPerS, best, worst)
	if milliseconds(worst) > sparseWait {
		t.Errorf("a request of the worst flow takes %.0f ms", worst)
	}
	s.stop()
}
