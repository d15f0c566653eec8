package show

import (
	"strings"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/golden"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

func TestStatusIsAsInTheGoldenFile(t *testing.T) {
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	pool := control.MapCounts{Created: 256, Free: 250, Loaded: 2, InFlight: 3, Quarantined: 1}
	s := control.Status{PID: 4711, Program: "1.0", Started: now.Add(-3 * time.Hour), GrantsUsed: 1028, GrantsLimit: 4096, Vifs: []control.Vif{
		{Match: "0", DevID: 0, TAP: "xnf0", Since: now.Add(-time.Hour), Device: &control.Device{
			DevID: 0, TAP: "xnf0", IfIndex: 7, MAC: "00:16:3e:01:02:03", MTU: 1500, LinkUp: true, State: "Connected", Since: now.Add(-90 * time.Second),
			Backend: "/local/domain/0/backend/vif/1/0", BackendDomID: 0, BackendState: "Connected", BackendSince: now.Add(-2 * time.Minute), Connects: 2, Ended: map[string]uint64{"backend_gone": 1},
			Features: control.Features{SG: true, Csum: true, GSOv4: true},
			Missing:  map[string]string{"queues": "4 asked for, the backend offers 2", "csum_ipv6": "not offered by the backend"},
			Grants:   1028,
			Shaping:  control.Shaping{Mode: control.ShapingRate, Limit: 3_750_000, Rates: []uint64{3_562_500, 3_562_500}},
			Link:     &control.LinkCounters{TxPackets: 10, TxBytes: 1000, TxDropped: 1, RxPackets: 20, RxBytes: 2000},
			Queues: []control.Queue{
				{Number: 0,
					Tx: control.Direction{Maps: pool, Counters: map[string]uint64{"packets": 123456, "bytes": 987654321, "slots": 200000, "notify_sent": 77, "notify_suppressed": 1234}},
					Rx: control.Direction{Maps: pool, Counters: map[string]uint64{"packets": 9, "bytes": 900, "drop_tap_error": 2, "drop_slots": 1}},
					Wait: control.Wait{Carried: 3_375_000, RingBytes: 14546, RingSeconds: 0.0043, QdiscSeconds: 0.0091,
						Qdisc: &control.Qdisc{Kind: "fq_codel", Frames: 9, Bytes: 30720, Dropped: 2}}},
				{Number: 1, Tx: control.Direction{OldestInFlight: 12}},
			},
			Totals: []control.Totals{
				{Number: 0, Tx: map[string]uint64{"packets": 200000, "backend_error": 4}, Rx: map[string]uint64{"packets": 18, "drop_tap_error": 2, "drop_slots": 3}},
				{Number: 1},
			},
		}},
		{Match: "*", DevID: 1, MAC: "00:16:3e:01:02:04", TAP: "xnf1", Since: now.Add(-time.Minute), Problem: "the kernel's driver \"vif\" (xen-netfront) has it"},
		{Match: "00:16:3e:01:02:05", DevID: 2, MAC: "00:16:3e:01:02:05", TAP: "eth2", Renamed: "xnf2", Since: now, Waiting: "its TAP stays until the vif is back", Device: &control.Device{DevID: 2, TAP: "eth2", IfIndex: 9, MTU: 9000, MTURefused: `device/vif/2/mtu is "large", want 1280 to 65517`, NetNS: "blue", MAC: "00:16:3e:01:02:05", LinkMAC: "8a:07:74:77:25:f0", Disabled: true, State: "Initialising", Since: now, Reason: "the backend did not answer in time", Awaits: "/local/domain/2/backend/vif/1/2 in domain 2 is Closed: no driver there has taken it up", BackendState: "Closed"}},
		{Match: "9", DevID: 9, Since: now.Add(-5 * time.Minute), Waiting: "this domain has 0, 1"},
		{Match: "00:16:3e:01:02:06", DevID: -1, Since: now.Add(-5 * time.Minute), Waiting: "this domain has 0 (00:16:3e:01:02:03), 1 (00:16:3e:01:02:04)"},
	}}
	var b strings.Builder
	if err := Status(&b, &s, now); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "status.golden", b.String())
}

func TestTextOfABackendCannotActOnTheTerminal(t *testing.T) {
	s := control.Status{Program: "1.0", Vifs: []control.Vif{{Match: "0", TAP: "xnf0", Device: &control.Device{
		State: "Closed", Reason: "the backend says \x1b[2J\x1b]0;gone\a\r\u009b31m",
	}}}}
	var b strings.Builder
	if err := Status(&b, &s, time.Now()); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\a\r\u009b") || !strings.Contains(b.String(), "the backend says ?[2J?]0;gone???31m\n") {
		t.Errorf("%q", b.String())
	}
}
