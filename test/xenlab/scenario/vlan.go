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
			"in tagged frames whose every checksum is finished, since netback drops tagged ones that are not; " +
			"and a bond over the TAP with an ipvlan on it, which carry the same",
		Takes: 22 * time.Second,
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
			run(t, u.Guest, "ip", "link", "del", ours)
			bondedIpvlan(t, u.Guest, s.tap)
			noFatal(t)
			s.stop()
		},
	}
}

// bondedIpvlan makes the TAP the port of a bond, and gives an ipvlan on that the addresses.
func bondedIpvlan(t *T, g *lab.Guest, tap string) {
	const bond, ipvlan = "lab-bond", "lab-ipvlan"
	shell(t, g, fmt.Sprintf(`ip link add %[1]s type bond mode active-backup miimon 100
		ip link set %[3]s down
		ip link set %[3]s master %[1]s
		ip link set %[1]s up
		ip link add link %[1]s name %[2]s type ipvlan mode l2`, bond, ipvlan, tap))
	stacked.address(t, g, ipvlan, numberGuest)
	stacked.address(t, t.Dom0, lab.Bridge, numberDom0)
	guest, dom0 := in(g), in(t.Dom0)
	reachesSoon(t, dom0, stacked.ipv4(numberGuest)) // once miimon has seen the carrier
	reaches(t, guest, stacked.ipv6(numberDom0))
	to := transfer(t, guest, dom0, stacked.ipv4(numberDom0), 4*mib, 1)
	from := transfer(t, dom0, guest, stacked.ipv6(numberGuest), 4*mib, 1)
	noneWrong(t, "UDP from the ipvlan", stream(t, guest, dom0, stacked.ipv4(numberDom0), 500, 1000))
	t.Reportf("ipvlan on a bond: domU to dom0 %.0f Mbit/s, dom0 to domU %.0f Mbit/s", to.MbitPerS, from.MbitPerS)
	shell(t, g, fmt.Sprintf(`grep -q 'Currently Active Slave: %s$' /proc/net/bonding/%s`, tap, bond))
	run(t, g, "ip", "link", "del", bond)
}
