package scenario

import (
	"context"
	"fmt"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

func vlan() Scenario {
	return Scenario{
		Name: "vlan",
		Proves: "a VLAN interface on the TAP and one on dom0's bridge: TCP both ways over IPv4 and IPv6 with all offloads on, " +
			"in tagged frames whose every checksum is finished, since netback drops tagged ones that are not",
		Takes: 11 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			s := serve(t, u, 0, numberGuest)
			tag := func(g *lab.Guest, link string, n int) string {
				name := link + ".5"
				run(t, g, "ip", "link", "add", "link", link, "name", name, "type", "vlan", "id", "5")
				tagged.address(t, g, name, n)
				return name
			}
			t.Cleanup(func(ctx context.Context) error {
				_, err := t.Dom0.Run(ctx, "ip", "link", "del", lab.Bridge+".5")
				return err
			})
			tag(t.Dom0, lab.Bridge, numberDom0)
			ours := tag(u.Guest, s.tap, numberGuest)
			t.Logf("%s", shell(t, u.Guest, fmt.Sprintf("ethtool -k %s | grep -E 'segmentation|checksum'", ours)))

			guest, dom0 := in(u.Guest), in(t.Dom0)
			stop := watch(t, dom0, u.Vif(0), "--verify")
			reaches(t, dom0, tagged.ipv4(numberGuest))
			reaches(t, guest, tagged.ipv6(numberDom0))
			to := transfer(t, guest, dom0, tagged.ipv4(numberDom0), 4*mib, 1)
			from := transfer(t, dom0, guest, tagged.ipv4(numberGuest), 4*mib, 1)
			transfer(t, guest, dom0, tagged.ipv6(numberDom0), 2*mib, 1)
			transfer(t, dom0, guest, tagged.ipv6(numberGuest), 2*mib, 1)
			noneWrong(t, "UDP from the guest", stream(t, guest, dom0, tagged.ipv4(numberDom0), 500, 1000))
			f := stop()
			t.Reportf("tagged: domU to dom0 %.0f Mbit/s, dom0 to domU %.0f Mbit/s", to.MbitPerS, from.MbitPerS)
			for _, way := range []struct {
				name string
				traffic.Direction
			}{{"from the guest", f.In}, {"to the guest", f.Out}} {
				noneBad(t, "tagged, "+way.name, way.Direction)
				if way.Tagged < 1000 || len(way.Unfinished) != 0 {
					t.Errorf("tagged, %s: %d of %d frames have a tag, checksums left blank: %v", way.name, way.Tagged, way.Frames, way.Unfinished)
				}
			}
			noFatal(t)
			s.stop()
		},
	}
}
