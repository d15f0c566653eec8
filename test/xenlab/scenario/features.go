package scenario

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// What can be refused on a real Xen, and how. Netback itself offers all it has, always,
// except for split event channels, which a module parameter takes away from vifs that
// are plugged after it was set. A toolstack can take any other node out of the
// backend's directory before the frontend looks, which is how an older backend looks.
// IPv4's blank checksums have no node: only the frontend can do without them.
// Ethtool on dom0's vif refuses what dom0 would send, and nothing else.

func features() Scenario {
	return Scenario{
		Name: "features",
		Proves: "each feature can be missing and traffic goes on without it: GSO, scatter-gather and IPv6 checksums taken out of the backend's directory, " +
			"checksums switched off in the guest, split event channels switched off in netback, segmentation, checksums and scatter-gather switched off on dom0's vif by ethtool",
		Takes: 27 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			for _, r := range refusals() {
				r.run(t, u)
			}
			refusedByEthtool(t, u)
			oneEventChannel(t, u)
			noFatal(t)
		},
	}
}

// refusal is a start of the daemon without a feature.
type refusal struct {
	name string
	keys []string // taken out of the backend's directory
	args []string // of the daemon

	noSuperFrames bool
	noBlank       []traffic.SumKind // checksums that nobody may leave blank
	vif           []string          // what ethtool then says of dom0's vif
}

func refusals() []refusal {
	return []refusal{
		{
			name: "gso", keys: []string{"feature-gso-tcpv4", "feature-gso-tcpv6"}, noSuperFrames: true,
			vif: []string{"tx-tcp-segmentation: off", "tx-tcp6-segmentation: off", "tx-scatter-gather: on"},
		},
		{
			name: "sg", keys: []string{"feature-sg"}, noSuperFrames: true,
			vif: []string{"tx-scatter-gather: off", "tx-tcp-segmentation: off", "tx-tcp6-segmentation: off"},
		},
		{
			name: "csum_ipv6", keys: []string{"feature-ipv6-csum-offload"}, noBlank: []traffic.SumKind{traffic.SumTCP6},
			vif: []string{"tx-checksum-ipv6: off", "tx-tcp6-segmentation: off", "tx-tcp-segmentation: on"},
		},
		{
			name: "csum", args: []string{"--disable", "csum"}, noSuperFrames: true, noBlank: []traffic.SumKind{traffic.SumTCP4, traffic.SumTCP6},
			vif: []string{"tx-checksum-ipv4: off", "tx-checksum-ipv6: off", "tx-tcp-segmentation: off", "tx-tcp6-segmentation: off"},
		},
	}
}

func (r *refusal) run(t *T, u *lab.DomU) {
	for _, k := range r.keys {
		path := u.BackendPath(0) + "/" + k
		t.Cleanup(func(ctx context.Context) error {
			_, err := t.Dom0.Run(ctx, "xenstore-write", path, "1")
			return err
		})
		run(t, t.Dom0, "xenstore-rm", path)
	}
	s := serve(t, u, 0, numberGuest, r.args...)
	stop := watch(t, in(t.Dom0), u.Vif(0), "--verify")
	someTraffic(t, u)
	f := stop()
	told := ethtool(t, u.Vif(0))
	for _, want := range r.vif {
		if !strings.Contains(told, want+"\n") && !strings.Contains(told, want+" [") {
			t.Errorf("without %s: %s is not %q", r.name, u.Vif(0), want)
		}
	}
	for _, way := range []struct {
		name string
		traffic.Direction
	}{{"from the guest", f.In}, {"to the guest", f.Out}} {
		what := "without " + r.name + ", " + way.name
		noneBad(t, what, way.Direction)
		if r.noSuperFrames && way.Large != 0 {
			t.Errorf("%s: %d super-frames of up to %d bytes", what, way.Large, way.Largest)
		}
		for _, k := range r.noBlank {
			if n := way.Unfinished[k]; n != 0 || way.Good[k] == 0 {
				t.Errorf("%s: %d checksums of %s left blank, %d finished", what, n, k, way.Good[k])
			}
		}
	}
	s.stop()
	for _, k := range r.keys {
		run(t, t.Dom0, "xenstore-write", u.BackendPath(0)+"/"+k, "1")
	}
}

// someTraffic is a little of TCP each way over IPv4 and IPv6.
func someTraffic(t *T, u *lab.DomU) {
	guest, dom0 := in(u.Guest), in(t.Dom0)
	transfer(t, guest, dom0, ipv4(numberDom0), mib, 1)
	transfer(t, dom0, guest, ipv4(numberGuest), mib, 1)
	transfer(t, guest, dom0, ipv6(numberDom0), mib/2, 1)
	transfer(t, dom0, guest, ipv6(numberGuest), mib/2, 1)
}

// ethtool is what dom0 may do on a vif: what its frontend takes.
func ethtool(t *T, vif string) string { return run(t, t.Dom0, "ethtool", "-k", vif) }

// refusedByEthtool has dom0 send without offloads to a frontend that takes them all.
func refusedByEthtool(t *T, u *lab.DomU) {
	s := serve(t, u, 0, numberGuest)
	vif := u.Vif(0)
	t.Cleanup(func(ctx context.Context) error {
		_, err := t.Dom0.Run(ctx, "ethtool", "-K", vif, "tx", "on", "sg", "on", "tso", "on")
		return err
	})
	for _, without := range []string{"tso", "sg", "tx"} {
		run(t, t.Dom0, "ethtool", "-K", vif, without, "off")
		stop := watch(t, in(t.Dom0), vif, "--verify")
		someTraffic(t, u)
		f := stop()
		what := "ethtool -K " + vif + " " + without + " off"
		superFrames(t, what+", from the guest", f.In)
		noneBad(t, what+", to the guest", f.Out)
		if f.Out.Large != 0 {
			t.Errorf("%s: %d super-frames to the guest", what, f.Out.Large)
		}
		if without == "tx" && len(f.Out.Unfinished) != 0 {
			t.Errorf("%s: checksums left blank to the guest: %v", what, f.Out.Unfinished)
		}
	}
	s.stop()
}

// oneEventChannel serves a vif whose backend has no split event channels.
func oneEventChannel(t *T, u *lab.DomU) {
	const parameter = "/sys/module/xen_netback/parameters/separate_tx_rx_irq"
	set := func(ctx context.Context, value string) error {
		return t.Dom0.WriteFile(ctx, parameter, []byte(value), 0o644)
	}
	t.Cleanup(func(ctx context.Context) error { return set(ctx, "1") })
	t.NoError(set(t.Context(), "0"), "switch split event channels off")
	plug(t, u, 1, lab.VifConfig{})
	t.NoError(set(t.Context(), "1"), "switch split event channels on")

	s := start(t, u, 1)
	second.address(t, u.Guest, s.tap, numberGuest)
	second.address(t, t.Dom0, lab.Bridge, numberDom0)
	s.await()
	keys := run(t, t.Dom0, "xenstore-ls", u.FrontendPath(1))
	if !strings.Contains(keys, "event-channel = ") || strings.Contains(keys, "event-channel-tx") {
		t.Errorf("the frontend does not use one event channel: %s", keys)
	}
	guest, dom0 := in(u.Guest), in(t.Dom0)
	reaches(t, dom0, second.ipv4(numberGuest))
	transfer(t, guest, dom0, second.ipv4(numberDom0), 4*mib, 1)
	transfer(t, dom0, guest, second.ipv4(numberGuest), 4*mib, 1)
	unplug(t, u, 1)
	s.stop()
}

// plug attaches vif devid, which must be the guest's next. It is detached after the
// scenario.
func plug(t *T, u *lab.DomU, devid int, c lab.VifConfig) {
	if c.MAC == "" {
		c.MAC = fmt.Sprintf("00:16:3e:77:01:%02x", devid)
	}
	run(t, t.Dom0, append([]string{"xl", "network-attach", u.Name}, c.Spec()...)...)
	t.Cleanup(func(ctx context.Context) error {
		_, err := t.Dom0.Shell(ctx, fmt.Sprintf("if xenstore-exists %s; then xl network-detach %s %d; fi", u.BackendPath(devid), u.Name, devid))
		return err
	})
	const initWait, connected = 2, 4 // a daemon that waits for the vif may be faster than this
	t.NoError(u.AwaitBackend(t.Context(), devid, initWait, connected), "wait for the new vif's backend")
}

// unplug detaches a vif. It has to be served: libxl gives a frontend that does not
// answer 10 s.
func unplug(t *T, u *lab.DomU, devid int) {
	run(t, t.Dom0, "xl", "network-detach", u.Name, fmt.Sprint(devid))
}
