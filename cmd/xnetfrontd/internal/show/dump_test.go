package show

import (
	"strings"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/golden"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

func TestDumpIsAsInTheGoldenFile(t *testing.T) {
	d := control.Dump{
		DevID: 0, TAP: "xnf0", State: "Connected", BackendState: "Connected", Taken: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC),
		Queues: []control.QueueDump{
			{Number: 0,
				Tx: &control.RingDump{
					Ref: 8, Port: 12, Masked: true, Size: 256, Waiting: true,
					Shared:  ring.Header{ReqProd: 1203, ReqEvent: 1204, RspProd: 1190, RspEvent: 1201},
					ReqProd: 1205, Published: 1203, RspCons: 1188,
					Maps: control.MapCounts{Free: 239, Loaded: 1, InFlight: 15, Quarantined: 1, Created: 256},
					InFlight: []control.InFlight{
						{ID: 4, Ref: 520, Index: 1190, Slot: 166, Age: 31},
						{ID: 5, Ref: 521, Index: 1191, Slot: 167, Age: 31},
						{ID: 6, Ref: 522, Index: 1192, Slot: 168, Age: 31},
						{ID: 9, Ref: 525, Index: 1193, Slot: 169, Age: 2},
						{ID: 10, Ref: 526, Index: 1194, Slot: 170},
					},
				},
				Rx: &control.RingDump{
					Ref: 9, Port: 13, Size: 256, Partial: 2,
					// The indices wrap around, and the backend has changed the words.
					Shared:  ring.Header{ReqProd: 5, ReqEvent: 0xffffff00, RspProd: 0xffffff08, RspEvent: 0xffffff09},
					ReqProd: 3, Published: 3, RspCons: 0xffffff08,
					Maps: control.MapCounts{InFlight: 256, Created: 256},
					InFlight: []control.InFlight{
						{ID: 0, Ref: 264, Index: 0xffffffff, Slot: 255}, {ID: 1, Ref: 265, Index: 0, Slot: 0},
					},
				}},
			{Number: 1, Problem: "worker 0 does not answer"},
			{Number: 2, Tx: &control.RingDump{Ref: 10, Port: 14, Size: 256, Shared: ring.Header{ReqEvent: 1, RspEvent: 1}}},
		},
	}
	var b strings.Builder
	if err := Dump(&b, &d); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "dump.golden", b.String())
	for l := range strings.Lines(b.String()) {
		if len(l) > 100 {
			t.Errorf("line of %d bytes: %s", len(l), l)
		}
	}
}
