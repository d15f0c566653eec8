package show

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

var update = flag.Bool("update", false, "write the golden file anew")

func TestStatusTableIsAsInTheGoldenFile(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	pool := netfront.MapCounts{Created: 256, Free: 250, Loaded: 2, InFlight: 3, Quarantined: 1}
	s := control.Status{PID: 4711, Program: "1.0", Started: now.Add(-3 * time.Hour), Vifs: []control.Vif{
		{Match: "0", DevID: 0, TAP: "xnf0", Since: now.Add(-time.Hour), Device: &netfront.Status{
			DevID: 0, TAP: "xnf0", IfIndex: 7, MAC: "00:16:3e:01:02:03", MTU: 1500, State: "Connected", Since: now.Add(-90 * time.Second),
			Backend: "/local/domain/0/backend/vif/1/0", BackendDomID: 0, BackendState: "Connected", Connects: 2,
			Features: netfront.Features{SG: true, Csum: true, GSOv4: true},
			Missing:  map[string]string{"queues": "4 asked for, the backend offers 2", "csum_ipv6": "not offered by the backend"},
			Grants:   1028,
			Link:     &tap.Stats{TxPackets: 10, TxBytes: 1000, TxDropped: 1, RxPackets: 20, RxBytes: 2000},
			Queues: []netfront.QueueStatus{
				{Number: 0,
					Tx: netfront.DirectionStatus{Maps: pool, Counters: map[string]uint64{"packets": 123456, "bytes": 987654321, "slots": 200000, "notify_sent": 77, "notify_suppressed": 1234}},
					Rx: netfront.DirectionStatus{Maps: pool, Counters: map[string]uint64{"packets": 9, "bytes": 900, "drop_tap_error": 2, "drop_slots": 1}}},
				{Number: 1},
			},
		}},
		{Match: "*", DevID: 1, MAC: "00:16:3e:01:02:04", TAP: "xnf1", Since: now.Add(-time.Minute), Problem: "the kernel's driver \"vif\" (xen-netfront) has it"},
		{Match: "00:16:3e:01:02:05", DevID: 2, MAC: "00:16:3e:01:02:05", TAP: "xnf2", Since: now, Waiting: "its TAP stays until the vif is back", Device: &netfront.Status{DevID: 2, TAP: "xnf2", State: "Initialising", Since: now, Reason: "the backend did not answer in time", BackendState: "Closed"}},
		{Match: "9", DevID: 9, Since: now.Add(-5 * time.Minute), Waiting: "this domain has 0, 1"},
		{Match: "00:16:3e:01:02:06", DevID: -1, Since: now.Add(-5 * time.Minute), Waiting: "this domain has 0 (00:16:3e:01:02:03), 1 (00:16:3e:01:02:04)"},
	}}
	var b strings.Builder
	if err := Status(&b, &s, now); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/status.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
