package scenario

import (
	"fmt"
	"strings"
)

// What a systemd guest has to bear: a time in which it is not there itself, and one in
// which its backend is not.

const (
	// pausedSeconds is longer than watchdogSeconds, and shorter than what netback keeps
	// frames for a guest that takes none (drainTimeout).
	watchdogSeconds = 4
	pausedSeconds   = 8
)

// pause has systemd's watchdog find that the daemon was silent for too long, since the whole
// guest was: it must cost no packet.
func (d *debian) pause() {
	d.sh(fmt.Sprintf(`mkdir -p /run/systemd/system/%[1]s.d
printf '[Service]\nWatchdogSec=%[2]d\n' >/run/systemd/system/%[1]s.d/watchdog.conf
systemctl daemon-reload
systemctl restart xnetfrontd`, daemonUnit, watchdogSeconds))
	before := d.mainPID(daemonUnit)
	d.loses(0, fmt.Sprintf("a pause of %d s", pausedSeconds), func() {
		shell(d.t, d.t.Dom0, fmt.Sprintf("xl pause %[1]s; sleep %[2]d; xl unpause %[1]s", d.u.Name, pausedSeconds))
		// The daemon answers until systemd has seen how late it is.
		d.sh(fmt.Sprintf(`for i in $(seq 100); do
	[ "$(systemctl show -P MainPID %[1]s)" = %[2]s ] || ! systemctl is-active -q %[1]s || break
	sleep 0.2
done`, daemonUnit, before))
		reachesSoon(d.t, in(d.t.Dom0), ipv4(numberGuest))
	})
	went := "went on"
	if d.mainPID(daemonUnit) != before {
		went = "left to the next one, as systemd's watchdog asked"
	}
	d.t.Reportf("the daemon %s", went)
	d.wants(daemonUnit, map[string]string{"ActiveState": "active", "SubState": "running", "Result": "success"})
	if out := d.sh("journalctl --no-pager --boot -o cat -u xnetfrontd | grep -E 'SIGKILL|SIGABRT|dumped core' | grep -v 'code=killed, status=9/KILL' || true"); out != "" {
		d.t.Errorf("the watchdog did more than ask: %s", out)
	}
	d.sh(fmt.Sprintf("rm -r /run/systemd/system/%s.d; systemctl daemon-reload; systemctl restart xnetfrontd", daemonUnit))
	d.healthy()
}

// bootWithoutBackend has the guest boot while nobody serves its vif. What waits for the
// network must not wait for that: the address is a static one.
func (d *debian) bootWithoutBackend() {
	t := d.t
	const waiter = "systemd-networkd-wait-online.service"
	d.sh("systemctl enable " + waiter + " 2>&1; systemctl add-wants multi-user.target network-online.target 2>&1")
	// Libxl waits for netback at the vif's making. After that it goes, before the guest's
	// daemon has seen it.
	gone, err := t.Dom0.Start(t.Context(), "/bin/sh", "-c", fmt.Sprintf(`until id=$(xl domid %[1]s 2>/dev/null) && [ $id != %[2]d ] &&
[ "$(xenstore-read /local/domain/0/backend/vif/$id/0/hotplug-status 2>/dev/null)" = connected ]; do sleep 0.1; done
echo vif-$id-0 >/sys/bus/xen-backend/drivers/vif/unbind`, d.u.Name, d.u.ID()))
	t.NoError(err, "wait for the new vif")
	t.NoError(d.u.Reboot(t.Context()), "reboot")
	_, err = gone.Wait(t.Context())
	t.NoError(err, "take the backend away")
	took := d.booted()
	d.wants(waiter, map[string]string{"ActiveState": "active", "Result": "success"})
	d.wants(daemonUnit, map[string]string{"ActiveState": "active", "SubState": "running"})
	if out := d.sh("xnetfrontd status; ip -br addr show dev xnf0"); !strings.Contains(out, ipv4(numberGuest)+"/") || strings.Contains(out, ": Connected") {
		t.Errorf("without a backend: %s", out)
	}
	t.Reportf("a boot without a backend: all is up %.1f s after the kernel's start, the network at %.1f s", took.Seconds(), d.since("network-online.target", "ActiveEnterTimestampMonotonic").Seconds())
	shell(t, t.Dom0, fmt.Sprintf("echo vif-%[1]d-0 >/sys/bus/xen-backend/drivers/vif/bind; vif=vif%[1]d.0 /etc/xen/scripts/vif-lab online", d.u.ID()))
	d.served()
	d.healthy()
}
