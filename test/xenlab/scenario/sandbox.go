package scenario

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sandboxed wants the units to be what docs/security.md says of them.
func (d *debian) sandboxed() {
	t := d.t
	user := strings.TrimSpace(d.sh("id -u xnetfrontd"))
	if user == "0" {
		t.Errorf("the user xnetfrontd is root")
	}
	status := func(unit string) map[string]string {
		values := map[string]string{}
		for line := range strings.Lines(d.sh(fmt.Sprintf("cat /proc/%s/status", d.mainPID(unit)))) {
			if k, v, ok := strings.Cut(line, ":"); ok {
				values[k] = strings.Join(strings.Fields(v), " ")
			}
		}
		return values
	}
	const none, filtered = "0000000000000000", "2"
	four := func(id string) string { return strings.Join([]string{id, id, id, id}, " ") }
	netAdmin := fmt.Sprintf("%016x", 1<<unix.CAP_NET_ADMIN)
	for _, p := range []struct {
		unit string
		want map[string]string
	}{
		{daemonUnit, map[string]string{"Uid": four(user), "CapEff": none, "CapInh": none, "CapAmb": none, "CapPrm": netAdmin, "CapBnd": netAdmin, "NoNewPrivs": "1", "Seccomp": filtered}},
		{holderUnit, map[string]string{"Uid": four("0"), "CapEff": none, "CapPrm": none, "CapBnd": none, "NoNewPrivs": "1", "Seccomp": filtered}},
	} {
		got := status(p.unit)
		for k, want := range p.want {
			if got[k] != want {
				t.Errorf("%s: %s of its process is %q, want %q", p.unit, k, got[k], want)
			}
		}
	}
	if threads := d.sh(fmt.Sprintf("grep -h CapEff /proc/%s/task/*/status | sort -u", d.mainPID(daemonUnit))); threads != "CapEff:\t"+none+"\n" {
		t.Errorf("threads of the daemon have capabilities in effect: %s", threads)
	}
	for _, see := range []struct{ command, want string }{
		{fmt.Sprintf("stat -Lc %%i /proc/1/ns/mnt /proc/%s/ns/mnt | uniq | wc -l", d.mainPID(holderUnit)), "1"}, // a shutdown unmounts everything
		{fmt.Sprintf("ls -A /proc/%s/root/dev/xen | tr '\\n' ' '", d.mainPID(daemonUnit)), "evtchn gntalloc"},
		{fmt.Sprintf("ls /proc/%s/root/dev/hvc0 2>&1 || true", d.mainPID(daemonUnit)), "No such file"},
		{"stat -c '%a %U:%G' /run/xnetfrontd", "750 xnetfrontd:xnetfrontd"},
		{"stat -c '%a %U:%G' /run/xnetfrontd/control.sock", "660 xnetfrontd:xnetfrontd"},
		{"stat -c '%a %U:%G' /run/xnetfrontd-hold/hold.sock", "660 xnetfrontd:root"},
		{"setpriv --reuid=nobody --regid=nogroup --clear-groups xnetfrontd status 2>&1 || true", "no permission"},
		{"setpriv --reuid=nobody --regid=nogroup --clear-groups xnetfrontd adopt-check 2>&1 || true", "permission denied"},
		{"setpriv --reuid=nobody --regid=xnetfrontd --clear-groups xnetfrontd status 2>&1", "Connected"},
		{"setpriv --reuid=nobody --regid=xnetfrontd --clear-groups xnetfrontd adopt-check 2>&1 || true", "permission denied"},
	} {
		if out := d.sh(see.command); !strings.Contains(out, see.want) {
			t.Errorf("%s: there is no %q: %s", see.command, see.want, out)
		}
	}
	for line := range strings.Lines(d.sh(fmt.Sprintf("systemd-analyze security --no-pager %s %s %s | grep Overall || true", daemonUnit, holderUnit, claimUnit))) {
		t.Reportf("systemd-analyze security: %s", strings.TrimSpace(strings.TrimPrefix(line, "→")))
	}
}

// exposure wants the daemon's to be at most what systemd/check.sh allows, as the guest's own
// systemd counts it.
func (d *debian) exposure() {
	const most = 1.5
	out := d.sh(fmt.Sprintf("systemd-analyze security --no-pager %s | grep Overall || true", daemonUnit))
	_, after, _ := strings.Cut(out, ": ")
	score, err := strconv.ParseFloat(strings.Fields(after + " ?")[0], 64)
	if err != nil || score > most {
		d.t.Errorf("systemd-analyze security: want at most %g: %s", most, out)
	}
}

// metricsSocket wants the daemon to get the socket with a restart, and not to end with it.
func (d *debian) metricsSocket() {
	const socket = "xnetfrontd-metrics.socket"
	d.wants(socket, map[string]string{"ActiveState": "inactive", "UnitFileState": "disabled"})
	d.sh("systemctl enable " + socket + " 2>&1; systemctl restart xnetfrontd")
	d.wants(socket, map[string]string{"ActiveState": "active", "SubState": "running"})
	if passed := strings.TrimSpace(d.sh(fmt.Sprintf("tr '\\0' '\\n' </proc/%s/environ | grep LISTEN_FDNAMES", d.mainPID(daemonUnit)))); passed != "LISTEN_FDNAMES=metrics" {
		d.t.Errorf("the daemon got %q", passed)
	}
	daemon := d.mainPID(daemonUnit)
	d.sh("systemctl disable --now " + socket + " 2>&1")
	d.healthy()
	if now := d.mainPID(daemonUnit); now != daemon {
		d.t.Errorf("to stop %s ended the daemon: its process is %s, it was %s", socket, now, daemon)
	}
}

// withoutUring wants the drop-in of the examples to take io_uring from the daemon and to
// cost no packet, and the daemon to have it again without the drop-in.
func (d *debian) withoutUring() {
	const example, dir = "/usr/share/doc/xnetfrontd/examples/systemd/no-io-uring.conf", "/etc/systemd/system/xnetfrontd.service.d"
	none := func() bool { return strings.Contains(d.sh("xnetfrontd status --json"), `"no_io_uring"`) }
	had := !none()
	d.sh(fmt.Sprintf("install -D -m 644 %s %s/no-io-uring.conf && systemctl daemon-reload", example, dir))
	d.loses(0, "a restart without io_uring", func() { d.sh("systemctl restart xnetfrontd") })
	if !none() {
		d.t.Errorf("the daemon has io_uring in spite of %s", example)
	}
	d.loses(0, "a restart with what the unit allows", func() {
		d.sh(fmt.Sprintf("rm -r %s && systemctl daemon-reload && systemctl restart xnetfrontd", dir))
	})
	if has := !none(); has != had {
		d.t.Errorf("io_uring is used without the drop-in: %t, it was %t", has, had)
	}
	d.healthy()
}

// refused wants nothing to have been refused to the units, in any boot: the sandbox is
// wider than what they do. What xenstore refuses is the toolstack's, which takes a vif away.
func (d *debian) refused() {
	out := d.sh(fmt.Sprintf("for boot in -1 0; do journalctl --boot=$boot --no-pager -o short-monotonic --unit %s --unit %s --unit %s; done | grep -iE 'not permitted|permission denied|read-only file system' | grep -v -e 'xenstore: ' -e 'io_uring is not used' || true", daemonUnit, holderUnit, claimUnit))
	if out != "" {
		d.t.Errorf("the sandbox is too narrow: %s", out)
	}
}
