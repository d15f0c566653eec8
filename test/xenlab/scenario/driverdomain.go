package scenario

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

const (
	// absence is how long there is no driver domain.
	absence = 10 * time.Second
	// outageGoal is for how much longer nothing passes.
	outageGoal = 2 * time.Second
	// probes is how many packets in a second the outage is measured with.
	probes = 100
)

func driverDomain() Scenario {
	return Scenario{
		Name: "driverdomain",
		Proves: "the backend is in a driver domain, which is destroyed under traffic; 10 s later the vif is attached to another driver domain: a TCP session through both goes on with the same hashes, " +
			"on the same TAP of the same daemon, and nothing passes for hardly longer than the absence",
		Takes: 38 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			first := newDriver(t, "driver1", 11)
			t.Cleanup(func(ctx context.Context) error {
				_, err := t.Dom0.Run(ctx, "ip", "route", "del", behind.ipv4(0)+"/24")
				return err
			})
			first.attach(u)
			s := start(t, u, 1)
			behind.address(t, u.Guest, s.tap, numberGuest)
			shell(t, u.Guest, "ip route add 10.77.0.0/24 via "+behind.ipv4(numberDriver))
			first.await(u)
			guest, dom0 := in(u.Guest), in(t.Dom0)
			reachesSoon(t, dom0, behind.ipv4(numberGuest))
			transfer(t, guest, dom0, ipv4(numberDom0), 4*mib, 1)
			transfer(t, dom0, guest, behind.ipv4(numberGuest), 4*mib, 1)
			index := s.status().IfIndex

			session := openFlow(t, guest, dom0, ipv4(numberDom0), "5003", mib/2)
			sink := guest.listen(t, "stream-sink", port("", "5002"), "--quiet="+patience, "--timeout="+patience)
			probe := dom0.launch(t, "stream", port(behind.ipv4(numberGuest), "5002"), "--packets=1000000", fmt.Sprintf("--rate=%d", probes))

			began := time.Now()
			first.destroy(u)
			t.Logf("destroyed and detached in %.1f s", time.Since(began).Seconds())
			next := newDriver(t, "driver2", 12)
			<-time.After(absence - time.Since(began))
			next.attach(u)
			away := time.Since(began)
			next.await(u)
			reachesSoon(t, dom0, behind.ipv4(numberGuest))

			interrupt[traffic.Streamed](probe)
			outage := milliseconds(interrupt[traffic.Seen](sink).GapMS)
			sent := finish(session)
			t.Reportf("driver domain away for %.1f s, nothing passed for %.1f s; the TCP session: %.1f MiB in %.0f s, %.1f s without a byte",
				away.Seconds(), outage.Seconds(), float64(sent.Bytes)/mib, sent.Seconds, sent.GapMS/1000)
			within(t, "outage beyond the absence", max(outage-away, 0), outageGoal)
			if now := s.status().IfIndex; now != index {
				t.Errorf("the TAP's index is %d, it was %d", now, index)
			}
			noFatal(t)
			next.noFatal()
			next.destroy(u)
			s.stop()
			nothingMapped(t, u, "after a stop")
		},
	}
}

// behind is the network that only a driver domain leads to.
const behind network = 80

// numberDriver is the driver domain in it.
const numberDriver = 1

// driver is a driver domain: a guest with netback, which routes between the vifs that
// it serves and dom0's bridge, as in Qubes OS. To bridge them takes more than Linux
// has: xen-netfront grants no pages that netback has mapped of another guest, and only
// what is routed is copied first.
//
// The toolstack's part in it, which is xl devd, is done by hand, as the small guest has
// no xl: it is to call the hotplug script for each new vif.
type driver struct {
	*lab.DomU
	t       *T
	address string // on dom0's bridge
}

// newDriver makes a driver domain of a guest that has the kernel's netfront, with host
// number n on dom0's bridge.
func newDriver(t *T, name string, n int) *driver {
	d := &driver{t.DomU(lab.DomUConfig{
		Name: name, MemMiB: 224, KernelArgs: "labmods=xen-netfront,bridge", Vifs: []lab.VifConfig{{}}, Config: []string{"driver_domain=1"},
	}), t, ipv4(n)}
	script, err := t.Dom0.ReadFile(t.Context(), "/etc/xen/scripts/vif-lab")
	t.NoError(err, "read from dom0")
	t.NoError(d.WriteFile(t.Context(), "/run/vif-lab", script, 0o755), "write to the driver domain")
	awaitLink(t, d.DomU, "eth0")
	bridged.address(t, d.Guest, "eth0", n)
	// Its signature was found wrong once, though its bytes were right: an emulated CPU.
	shell(t, d.Guest, `modprobe xen-netback || modprobe xen-netback
		echo 1 >/proc/sys/net/ipv4/ip_forward
		ip link add `+lab.Bridge+` type bridge`)
	behind.address(t, d.Guest, lab.Bridge, numberDriver)
	return d
}

// attach gives u its vif 1, with the backend in d, and has dom0 reach it through d.
func (d *driver) attach(u *lab.DomU) {
	spec := lab.VifConfig{MAC: "00:16:3e:77:01:01", Backend: d.Name}.Spec()
	run(d.t, d.t.Dom0, append([]string{"xl", "network-attach", u.Name}, spec...)...)
	vif := u.Vif(1)
	shell(d.t, d.Guest, fmt.Sprintf("until [ -e /sys/class/net/%s ]; do usleep 20000; done; vif=%[1]s /run/vif-lab online", vif))
	d.copyFrames(vif)
	run(d.t, d.t.Dom0, "ip", "route", "replace", behind.ipv4(0)+"/24", "via", d.address)
}

// copyFrames has Linux 7 copy a guest's frames before it forwards them, as 6.12 does by
// itself. It no longer does, and a frame that is forwarded to xen-netfront with pages that
// netback has mapped is lost there, whichever frontend it is from. It copies what it shows
// to a packet socket, even to one that wants no frame.
func (d *driver) copyFrames(vif string) {
	major, _, _ := strings.Cut(strings.TrimSpace(run(d.t, d.Guest, "uname", "-r")), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 7 {
		d.t.NoError(err, "the driver domain's kernel")
		return
	}
	socket, err := d.Start(d.t.Context(), "/bin/sh", "-c", "exec tcpdump -Z root -i "+vif+" -w /dev/null ether proto 0x88b5 2>&1")
	d.t.NoError(err, "open a packet socket in the driver domain")
	d.t.NoError(socket.AwaitStdout(d.t.Context(), "listening"), "open a packet socket in the driver domain")
}

// destroy destroys d, and takes u's vif away. The other way round xl would wait for xl
// devd.
func (d *driver) destroy(u *lab.DomU) {
	d.t.NoError(d.Destroy(d.t.Context()), "destroy the driver domain")
	run(d.t, d.t.Dom0, "xl", "network-detach", u.Name, "1")
}

// await waits until the backend of u's vif 1 in d is Connected, with its carrier.
func (d *driver) await(u *lab.DomU) {
	state := fmt.Sprintf("/local/domain/%d/backend/vif/%d/1/state", d.ID(), u.ID())
	run(d.t, d.t.Dom0, lab.AgentPath, "await-store", state, "4")
	run(d.t, d.Guest, lab.AgentPath, "await-carrier", u.Vif(1))
}

// noFatal fails if netback has disabled a vif in d.
func (d *driver) noFatal() {
	if log := run(d.t, d.Guest, "dmesg"); strings.Contains(log, "fatal error") {
		d.t.Errorf("netback of %s: %s", d.Name, log)
	}
}
