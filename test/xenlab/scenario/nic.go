package scenario

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

func nic() Scenario {
	return Scenario{
		Name: "nic",
		Proves: "a TAP that is moved to another network namespace is served there over a new attachment, a rebind and a restart; attached anew with another MAC address and MTU, the vif " +
			"gives them to its TAP; offloads that ethtool switched off stay off; a vif that the toolstack disables has no carrier until it is enabled; a VLAN's address in the namespace is announced with its tag",
		Takes: 57 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			plug(t, u, 1, lab.VifConfig{})
			s := start(t, u, 1)
			s.await()
			second.address(t, t.Dom0, lab.Bridge, numberDom0)
			shell(t, u.Guest, "ip netns add blue; ip link set "+s.tap+" netns blue")
			t.Cleanup(func(ctx context.Context) error { _, err := u.Run(ctx, "ip", "netns", "del", "blue"); return err })
			blue := place{Guest: u.Guest, space: "blue"}
			shell(t, u.Guest, fmt.Sprintf(`ip -n blue addr add %[2]s/24 dev %[1]s
				ip -n blue link set %[1]s up
				ip -n blue link add link %[1]s name %[1]s.5 type vlan id 5
				ip -n blue addr add %[3]s/24 dev %[1]s.5
				ip -n blue link set %[1]s.5 up
				ip netns exec blue ethtool -K %[1]s tso off`, s.tap, second.ipv4(numberGuest), tagged.ipv4(numberGuest)))
			reachesSoon(t, in(t.Dom0), second.ipv4(numberGuest))
			wantInBlue(t, s)

			unplug(t, u, 1)
			const mac = "00:16:3e:77:02:01"
			plug(t, u, 1, lab.VifConfig{MAC: mac, MTU: 1400})
			s.await()
			reachesSoon(t, in(t.Dom0), second.ipv4(numberGuest))
			link := run(t, u.Guest, "ip", "-n", "blue", "link", "show", s.tap)
			if !strings.Contains(link, mac) || !strings.Contains(link, "mtu 1400") {
				t.Errorf("the TAP does not have address %s and MTU 1400: %s", mac, link)
			}
			if f := shell(t, u.Guest, "ip netns exec blue ethtool -k "+s.tap+" | grep tcp-segmentation-offload"); !strings.Contains(f, ": off") {
				t.Errorf("ethtool -K tso off did not last: %s", f)
			}
			wantInBlue(t, s)

			announced, err := t.Dom0.Start(t.Context(), "/bin/sh", "-c", "exec tcpdump -Z root -n -l -i "+lab.Bridge+" vlan 5 and arp 2>&1")
			t.NoError(err, "start tcpdump")
			t.NoError(announced.AwaitStdout(t.Context(), "listening"), "start tcpdump")
			shell(t, t.Dom0, fmt.Sprintf(`echo vif-%d-1 >/sys/bus/xen-backend/drivers/vif/unbind
				echo vif-%[1]d-1 >/sys/bus/xen-backend/drivers/vif/bind
				vif=%[2]s /etc/xen/scripts/vif-lab online`, u.ID(), u.Vif(1)))
			s.await()
			t.NoError(announced.AwaitStdout(t.Context(), tagged.ipv4(numberGuest)), "wait for the VLAN's address to be announced")
			t.NoError(announced.Signal(t.Context(), unix.SIGINT), "stop tcpdump")
			reachesSoon(t, in(t.Dom0), second.ipv4(numberGuest))
			wantInBlue(t, s)

			t.NoError(s.Signal(t.Context(), unix.SIGUSR2), "have the daemon leave")
			_, err = s.Wait(t.Context())
			t.NoError(err, "wait for the daemon")
			s = start(t, u, 1)
			s.await()
			reachesSoon(t, blue, second.ipv4(numberDom0))
			wantInBlue(t, s)

			run(t, t.Dom0, "xenstore-write", u.FrontendPath(1)+"/disconnect", "1") // as XAPI does
			run(t, u.Guest, "ip", "netns", "exec", "blue", lab.AgentPath, "await-carrier", s.tap, "--off")
			if !s.status().Disabled {
				t.Errorf("status does not say that the vif is disabled")
			}
			run(t, t.Dom0, "xenstore-rm", u.FrontendPath(1)+"/disconnect")
			run(t, u.Guest, "ip", "netns", "exec", "blue", lab.AgentPath, "await-carrier", s.tap)
			reachesSoon(t, blue, second.ipv4(numberDom0))
			noFatal(t)
			unplug(t, u, 1)
			s.stop()
		},
	}
}

// wantInBlue wants the TAP in the other namespace only.
func wantInBlue(t *T, s *served) {
	if ns := s.status().NetNS; ns != "blue" {
		t.Errorf("status says that the TAP is in namespace %q", ns)
	}
	if here := run(t, s.u.Guest, "ip", "-o", "link"); strings.Contains(here, " "+s.tap+":") {
		t.Errorf("there is another TAP outside: %s", here)
	}
}
