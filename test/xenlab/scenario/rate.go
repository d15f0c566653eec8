package scenario

import (
	"fmt"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// rateMbit is less than what an emulated machine carries when it is busy.
const rateMbit = 5

func rate() Scenario {
	return Scenario{
		Name: "rate",
		Proves: "on a vif with rate=5Mb/s TCP from the guest runs near the limit, pings go on under that load, " +
			"and neither a watchdog nor a reconnect takes the waiting backend for a dead one",
		Takes: 10 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			plug(t, u, 1, lab.VifConfig{Rate: fmt.Sprintf("%dMb/s", rateMbit)})
			s := start(t, u, 1)
			second.address(t, u.Guest, s.tap, numberGuest)
			second.address(t, t.Dom0, lab.Bridge, numberDom0)
			s.await()
			guest, dom0 := in(u.Guest), in(t.Dom0)
			idle, err := ping(t.Context(), guest, second.ipv4(numberDom0), "-c", "5", "-i", "0.2")
			t.NoError(err, "ping")

			// The limit is on what the guest sends, and not on this.
			from := transfer(t, dom0, guest, second.ipv4(numberGuest), mib, 1)
			type loaded struct {
				pings
				err error
			}
			done := make(chan loaded, 1)
			go func() {
				p, err := ping(t.Context(), guest, second.ipv4(numberDom0), "-c", "15", "-i", "0.2", "-W", "5")
				done <- loaded{p, err}
			}()
			sent := transfer(t, guest, dom0, second.ipv4(numberDom0), 3*mib, 1)
			under := <-done
			t.NoError(under.err, "ping under load")
			t.Reportf("%.1f Mbit/s at a limit of %d; ping %.1f ms idle, %.1f ms on average and %.1f ms at most under load, %d of %d answered",
				sent.MbitPerS, rateMbit, idle.averageMS, under.averageMS, under.maxMS, under.received, under.sent)
			if from.MbitPerS < 4*rateMbit {
				t.Reportf("this machine is slow: it may be what keeps the guest from the limit")
			} else if sent.MbitPerS < 0.8*rateMbit {
				t.Errorf("%.1f Mbit/s at a limit of %d", sent.MbitPerS, rateMbit)
			}
			if sent.MbitPerS > 1.1*rateMbit {
				t.Errorf("%.1f Mbit/s at a limit of %d", sent.MbitPerS, rateMbit)
			}
			if under.received != under.sent {
				t.Errorf("under load %d of %d pings were answered", under.received, under.sent)
			}
			if st := s.status(); st.Connects != 1 || st.State != "Connected" {
				t.Errorf("%d connections, now %s: %s", st.Connects, st.State, st.Reason)
			}
			for line := range strings.Lines(s.log()) {
				if strings.Contains(line, `"level":"warn"`) || strings.Contains(line, `"level":"error"`) {
					t.Errorf("the daemon complains: %s", strings.TrimSpace(line))
				}
			}
			noFatal(t)
			unplug(t, u, 1)
			s.stop()
		},
	}
}
