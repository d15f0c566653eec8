package scenario

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Versions of the packages that are built.
const (
	firstVersion  = "0.0.1"
	secondVersion = "0.0.2"
)

// savedMemory is what a Debian guest gets that is saved: dom0 keeps the save in memory.
const savedMemory = 320

func systemd() Scenario {
	return Scenario{
		Name: "systemd",
		Proves: "in a Debian with systemd, the daemon of the project's own .deb, as a user of its own in its sandbox: installed and configured it takes the vif from the kernel; ip, ifconfig, networkctl " +
			"and the journal show it; systemctl restart, SIGKILL and an upgrade negotiate nothing anew and lose no packet but what a killed process had in its hands, nor does a pause of the guest that is longer than systemd's watchdog waits; the address outlives a detached " +
			"vif; a boot without a backend waits for nobody; a stop leaves nothing, and a reboot brings all back; after save and restore and the package's removal the guest goes off without a complaint of its kernel",
		Takes:   190 * time.Second,
		Timeout: 30 * time.Minute,
		Run: func(t *T) {
			first, second := buildDeb(t, firstVersion), buildDeb(t, secondVersion)
			u := t.DomU(lab.DomUConfig{
				Name: "systemd", Image: lab.ImageDebian, MemMiB: savedMemory, Vifs: []lab.VifConfig{{}},
				Payload: map[string]string{"/root/" + firstVersion + ".deb": first, "/root/" + secondVersion + ".deb": second},
			})
			d := &debian{t, u}
			t.Reportf("Debian is up after %.1f s", d.booted().Seconds())
			d.install()
			d.configure()
			d.look()
			d.sandboxed()
			d.exposure()
			d.loses(0, "systemctl restart", func() { d.sh("systemctl restart xnetfrontd") })
			d.loses(killedBatch, "SIGKILL", d.kill)
			d.loses(0, "an upgrade", d.upgrade)
			d.pause()
			d.detach()
			d.metricsSocket()
			d.withoutUring()
			d.stopAndStart()
			d.reboot()
			d.bootWithoutBackend()
			saveAndRestore(t, u)
			d.served()
			d.sandboxed()
			d.refused()
			d.remove()
			powerOff(t, u)
			noFatal(t)
		},
	}
}

// install installs the package, which changes nothing: nothing is configured.
func (d *debian) install() {
	began := time.Now()
	d.dpkg(firstVersion)
	d.t.Reportf("dpkg -i: %.1f s", time.Since(began).Seconds())
	d.wants(daemonUnit, map[string]string{"ActiveState": "inactive", "Result": "exec-condition", "UnitFileState": "enabled"})
	d.wants(holderSocket, map[string]string{"ActiveState": "active", "UnitFileState": "enabled"})
	d.wants(holderUnit, map[string]string{"ActiveState": "inactive"})
	if kernels := strings.TrimSpace(d.sh("ls /sys/bus/xen/devices/vif-0/net")); kernels == "" {
		d.t.Errorf("the installation took the vif from the kernel")
	}
	for _, verify := range []string{
		fmt.Sprintf("systemd-analyze verify %s %s %s %s xnetfrontd-metrics.socket 2>&1", daemonUnit, holderUnit, holderSocket, claimUnit),
		"udevadm verify /usr/lib/udev/rules.d/60-xnetfrontd.rules 2>&1 >/dev/null",
	} {
		if said := strings.TrimSpace(d.sh(verify)); said != "" {
			d.t.Errorf("%s: %s", verify, said)
		}
	}
}

// configure does what docs/install.md says: a table, the network, a start.
func (d *debian) configure() {
	began := time.Now()
	d.sh(fmt.Sprintf(`mkdir -p /var/log/journal /etc/systemd/network/60-xnf.network.d # the journal of the boot before
journalctl --flush
cat >>/etc/xnetfrontd/xnetfrontd.toml <<'END'
[[vif]]
mac = "%s"
txqueuelen = %d
END
cp /usr/share/doc/xnetfrontd/examples/60-xnf.network /etc/systemd/network/
cat >/etc/systemd/network/60-xnf.network.d/address.conf <<'END'
[Network]
DHCP=no
Address=%s/24

[Address]
Address=%s/64
DuplicateAddressDetection=none
END
systemctl enable --now systemd-networkd xnetfrontd 2>&1
/usr/lib/systemd/systemd-networkd-wait-online --interface=xnf0 2>&1`, d.u.Config.Vifs[0].MAC, queueLen, ipv4(numberGuest), ipv6(numberGuest)))
	d.served()
	d.t.Reportf("systemctl enable --now: connected after %.1f s", time.Since(began).Seconds())
}

// look looks with everything that a user has.
func (d *debian) look() {
	t := d.t
	d.healthy()
	if active, fed := d.since(daemonUnit, "ActiveEnterTimestampMonotonic"), d.since(daemonUnit, "WatchdogTimestampMonotonic"); fed <= active {
		t.Errorf("systemd's watchdog was last fed at %s, the unit is active since %s", fed, active)
	}
	for _, see := range []struct{ command, want string }{
		{"systemctl status --no-pager xnetfrontd", "Active: active (running)"},
		{"systemctl status --no-pager xnetfrontd-hold", "TriggeredBy: ● xnetfrontd-hold.socket"},
		{"ip addr show dev xnf0", "inet " + ipv4(numberGuest) + "/24"},
		{"ip addr show dev xnf0", "inet6 " + ipv6(numberGuest) + "/64"},
		{"udevadm info --query=property --property=ID_NET_LINK_FILE /sys/class/net/xnf0", "/60-xnf.link"},
		{"ifconfig xnf0", "inet " + ipv4(numberGuest)},
		{"networkctl status --no-pager xnf0", "routable (configured)"},
		{"stat -c %G /dev/xen/xenbus /dev/xen/gntalloc /dev/xen/evtchn | tr '\\n' ' '", "xnetfrontd xnetfrontd xnetfrontd"},
		{"xnetfrontd status", "Connected"},
		{"xnetfrontd adopt-check", "can be taken over"},
	} {
		if out := d.sh(see.command); !strings.Contains(out, see.want) {
			t.Errorf("%s: there is no %q: %s", see.command, see.want, out)
		}
	}
	d.journal()
}

// journal wants the daemon's start and its connection in the journal.
func (d *debian) journal() {
	d.noted(entry{Message: "ready (version " + firstVersion + ", control /run/xnetfrontd/control.sock)", Priority: "6"})
	d.noted(entry{ID: netfront.EventConnected, Priority: "6", VIF: "0", TAP: "xnf0", Backend: "0"}, "VIF=0")
	if out := d.sh("journalctl --no-pager --catalog --unit xnetfrontd MESSAGE_ID=" + netfront.EventConnected); !strings.Contains(out, "Subject: Vif 0 is connected") {
		d.t.Errorf("journalctl --catalog does not explain the connection: %s", out)
	}
}

// entry is what the journal has of a line of the daemon's.
type entry struct {
	Unit     string `json:"_SYSTEMD_UNIT"`
	Message  string `json:"MESSAGE"`
	ID       string `json:"MESSAGE_ID"`
	Priority string `json:"PRIORITY"`
	VIF      string `json:"VIF"`
	TAP      string `json:"TAP"`
	Backend  string `json:"BACKEND"`
	Cause    string `json:"CAUSE"`
}

// noted wants an entry among those that journalctl finds with these matches: one with the
// fields of want that are not empty.
func (d *debian) noted(want entry, matches ...string) {
	argv := append([]string{"journalctl", "--unit", daemonUnit, "--output=json", "--no-pager"}, matches...)
	out := run(d.t, d.u.Guest, argv...)
	for text := range strings.Lines(out) {
		var e entry
		d.t.NoError(json.Unmarshal([]byte(text), &e), "a line of the journal")
		masked := e
		for _, f := range []struct{ want, got *string }{
			{&want.Unit, &masked.Unit}, {&want.Message, &masked.Message}, {&want.ID, &masked.ID}, {&want.Priority, &masked.Priority},
			{&want.VIF, &masked.VIF}, {&want.TAP, &masked.TAP}, {&want.Backend, &masked.Backend}, {&want.Cause, &masked.Cause},
		} {
			if *f.want == "" {
				*f.got = ""
			}
		}
		if masked == want {
			d.t.Logf("journal: %+v", e)
			return
		}
	}
	d.t.Errorf("%s has no %+v: %s", strings.Join(argv, " "), want, out)
}

// kill kills the daemon and waits until systemd has started the next one.
func (d *debian) kill() {
	d.sh(fmt.Sprintf(`old=$(systemctl show -P MainPID %s)
kill -9 $old
while [ -e /proc/$old ]; do sleep 0.1; done # until systemd has seen it
systemctl start %[1]s # waits until the next one is ready`, daemonUnit))
	if n := d.show(daemonUnit, "NRestarts")["NRestarts"]; n != "1" {
		d.t.Errorf("systemd has restarted it %s times", n)
	}
}

// upgrade installs the second package over the first.
func (d *debian) upgrade() {
	holder := d.mainPID(holderUnit)
	if out := d.dpkg(secondVersion); strings.Contains(out, "cannot go on") || !strings.Contains(out, "can be taken over") {
		d.t.Errorf("the package's check: %s", out)
	}
	d.healthy()
	if now := d.mainPID(holderUnit); now != holder || holder == "0" {
		d.t.Errorf("the holder is process %s, it was %s", now, holder)
	}
	if out := d.sh("readlink /proc/$(systemctl show -P MainPID xnetfrontd)/exe; xnetfrontd version"); !strings.Contains(out, secondVersion) || strings.Contains(out, "deleted") {
		d.t.Errorf("it is not the new program that runs: %s", out)
	}
}

// detach takes the carrier away, and the vif with it, and gives both back.
func (d *debian) detach() {
	t := d.t
	run(t, t.Dom0, "xl", "network-detach", d.u.Name, "0")
	out := d.sh(lab.AgentPath + " await-carrier xnf0 --off; ip -br addr show dev xnf0")
	for _, address := range []string{ipv4(numberGuest), ipv6(numberGuest)} {
		if !strings.Contains(out, address+"/") {
			t.Errorf("without a carrier the address %s is gone: %s", address, out)
		}
	}
	began := time.Now()
	run(t, t.Dom0, append([]string{"xl", "network-attach", d.u.Name}, d.u.Config.Vifs[0].Spec()...)...)
	d.served()
	d.noted(entry{Unit: daemonUnit, ID: netfront.EventDetached, Priority: "4", VIF: "0", TAP: "xnf0", Backend: "0", Cause: "detached"}, "CAUSE=detached")
	d.noted(entry{ID: netfront.EventDetached}, "--priority=warning", "VIF=0")
	t.Reportf("attached again: served after %.1f s", time.Since(began).Seconds())
	d.healthy()
}

// stopAndStart wants a stop to leave nothing, and a start to work after it.
func (d *debian) stopAndStart() {
	d.sh("systemctl stop xnetfrontd")
	d.stopped()
	d.sh("systemctl stop xnetfrontd-hold.service 2>&1") // its socket starts it again
	d.wants(holderUnit, map[string]string{"ActiveState": "inactive", "Result": "success"})
	d.sh("systemctl start xnetfrontd")
	d.served()
	d.healthy()
}

// reboot has the guest reboot while the daemon runs. All must come back by itself.
func (d *debian) reboot() {
	t := d.t
	began := time.Now()
	t.NoError(d.u.Reboot(t.Context()), "reboot")
	t.Reportf("reboot: answers after %.1f s, all is up %.1f s after the kernel's start", time.Since(began).Seconds(), d.booted().Seconds())
	d.served()
	d.healthy()
	console, err := os.ReadFile(filepath.Join(t.Lab.ShareDir(), "console", "guest-"+d.u.Name+".log"))
	t.NoError(err, "the guest's console")
	noComplaint(t, "the guest's console", string(console))
	noComplaint(t, "the guest's kernel before the reboot", d.sh("journalctl --boot=-1 --dmesg --no-pager -o cat"))
	noComplaint(t, "the guest's kernel", d.sh("dmesg"))
	if out := d.sh("dmesg | grep -i 'EXT4-fs.*recover' || true"); out != "" {
		t.Errorf("the file system was not unmounted: %s", out)
	}
	before := d.sh("journalctl --boot=-1 --no-pager -o short-monotonic --unit xnetfrontd.service --unit xnetfrontd-hold.service | tail -20")
	for _, want := range []string{"stopped (left to the next false)", daemonUnit + ": Deactivated successfully", holderUnit + ": Deactivated successfully"} {
		if !strings.Contains(before, want) {
			t.Errorf("the shutdown did not stop everything in order: %s", before)
		}
	}
	if out := d.sh("journalctl --boot=-1 --no-pager -o short-monotonic | grep 'timed out' || true"); out != "" {
		t.Errorf("the shutdown waited in vain: %s", out)
	}
	if out := d.sh("readlink /sys/bus/xen/devices/vif-0/driver || true"); out != "" {
		t.Errorf("the kernel's driver has the vif that the daemon serves: %s", out)
	}
	if ready, network := d.since(daemonUnit, "ActiveEnterTimestampMonotonic"), d.since("network.target", "ActiveEnterTimestampMonotonic"); ready > network {
		t.Errorf("the network was there at %s, before the daemon at %s", network, ready)
	}
}

// remove removes the package, and then its settings. Of a guest that was restored the
// holder stays, because it must.
func (d *debian) remove() {
	began := time.Now()
	d.sh("dpkg -r xnetfrontd 2>&1")
	d.stopped()
	d.wants(daemonUnit, map[string]string{"ActiveState": "inactive", "LoadState": "not-found"})
	d.wants(holderSocket, map[string]string{"ActiveState": "inactive", "LoadState": "not-found"})
	d.wants(holderUnit, map[string]string{"ActiveState": "failed", "LoadState": "not-found"})
	d.sh("dpkg -P xnetfrontd 2>&1")
	d.t.Reportf("dpkg -r and dpkg -P: %.1f s", time.Since(began).Seconds())
	if left := strings.TrimSpace(run(d.t, d.u.Guest, "pgrep", "-a", "xnetfrontd")); !strings.HasSuffix(left, " @xnetfrontd-hold hold --allow-user xnetfrontd") || strings.Contains(left, "\n") {
		d.t.Errorf("the holder has what must not be closed, and runs no more, or not alone: %s", left)
	}
	left := d.sh("find / -xdev -name '*xnetfrontd*' ! -path '/lab/*' ! -path '/var/log/*'; find /run -name '*xnetfrontd*'; dpkg -l xnetfrontd 2>/dev/null || true")
	if left != "" {
		d.t.Errorf("left behind: %s", left)
	}
}
