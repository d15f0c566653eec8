package scenario

import (
	"fmt"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

func migrate() Scenario {
	return Scenario{
		Name: "migrate",
		Proves: "live migration, twice, to the same host: the TCP session goes on with the same hashes, the holder keeps the old event channels, " +
			"and the guest's kernel has nothing to say about them",
		Takes: 40 * time.Second,
		Run: func(t *T) {
			u := t.DomU(lab.DomUConfig{Name: "migrate", Vifs: []lab.VifConfig{{}}})
			s := serve(t, u, 0, numberGuest)
			session := openFlow(t, in(t.Dom0), in(u.Guest), ipv4(numberGuest), "5003", mib/2)
			channels := heldChannels(t, u)
			for range 2 {
				began := time.Now()
				// With an empty -s what stands for the host is run as it is.
				shell(t, t.Dom0, fmt.Sprintf(`xl migrate -s "" %s "xl migrate-receive" >/tmp/migrate.log 2>&1 || { cat /tmp/migrate.log >&2; exit 1; }`, u.Name))
				took := time.Since(began)
				t.NoError(u.Reconnect(t.Context()), "the migrated guest")
				began = time.Now()
				s.await()
				t.Reportf("migrated in %.1f s", took.Seconds())
				within(t, "served after a migration", time.Since(began), reconnectGoal)
				reachesSoon(t, in(t.Dom0), ipv4(numberGuest))
			}
			parked(t, u, "two migrations", 3*channels)
			sent := finish(session)
			t.Reportf("the TCP session: %.1f MiB in %.0f s, %.1f s without a byte at most", float64(sent.Bytes)/mib, sent.Seconds, sent.GapMS/1000)
			s.stop()
			nothingMapped(t, u, "after a stop")
			noComplaint(t, "the guest's kernel", run(t, u.Guest, "dmesg"))
			noFatal(t)
		},
	}
}
