package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

// networkd runs systemd-networkd in the daemon's namespace, with a /run of its own, until
// systemd-networkd-wait-online lets the boot go on, or for 30 s, ten times what that takes.
// With a read-only /sys networkd does not wait for udev.
const networkd = `set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/network /run/systemd/netif
! id systemd-network >/dev/null 2>&1 || chown systemd-network:systemd-network /run/systemd/netif
mount -t sysfs -o ro sysfs /sys
install -m 644 "$1" /run/systemd/network/60-xnf.network
"$2"/systemd-networkd 2>"$3" & pid=$!
trap 'kill $pid' EXIT
until [ -e /run/systemd/netif/state ]; do kill -0 $pid; sleep 0.1; done
"$2"/systemd-networkd-wait-online --timeout=30
`

// systemdPrograms is the folder of systemd's own programs.
func systemdPrograms(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/usr/lib/systemd", "/lib/systemd"} {
		if _, err := os.Stat(dir + "/systemd-networkd-wait-online"); err == nil {
			return dir
		}
	}
	needs.LeaveOut(t, "systemd-networkd")
	return ""
}

// asStatic is the example with static addresses in it, as a user would edit it.
func asStatic(t *testing.T, example string) string {
	t.Helper()
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		switch bare, commented := strings.CutPrefix(line, "#"); {
		case strings.HasPrefix(line, "DHCP="):
		case commented && (strings.Contains(bare, "=") || strings.HasPrefix(bare, "[")) && !strings.HasPrefix(bare, " "):
			lines = append(lines, bare)
		default:
			lines = append(lines, line)
		}
	}
	return writeFile(t, filepath.Join(t.TempDir(), "60-xnf.network"), strings.Join(lines, ""))
}

// online starts a daemon without a backend, and networkd with a file. It wants these addresses
// when the boot can go on.
func online(t *testing.T, file string, want ...string) {
	t.Helper()
	dir := systemdPrograms(t)
	needs.Program(t, "unshare")
	m := newMachine(t, xensim.Options{}, 0)
	d := m.start("--vif", "0")
	d.await("READY=1")
	said := filepath.Join(t.TempDir(), "networkd")
	out, err := m.command("unshare", "--mount", "bash", "-c", networkd, "bash", file, dir, said)
	if err != nil {
		log, _ := os.ReadFile(said)
		t.Fatalf("%v: %s\nnetworkd says:\n%s", err, out, log)
	}
	if got := m.addresses("xnf0"); !slices.Equal(got, want) {
		t.Errorf("addresses %s, want %s", got, want)
	}
}

func TestBootWithAddressesOfTheExampleForNetworkdDoesNotWaitForABackend(t *testing.T) {
	online(t, asStatic(t, "../../deploy/networkd/60-xnf.network"), "192.0.2.10/24", "2001:db8::10/64")
}

func TestAddressesOfTheExampleForNetplanComeWithoutACarrier(t *testing.T) {
	needs.Program(t, "netplan")
	text, err := os.ReadFile("../../deploy/netplan/60-xnf.yaml")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.MkdirAll(root+"/etc/netplan", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, root+"/etc/netplan/60-xnf.yaml", string(text))
	if out, err := exec.Command("netplan", "generate", "--root-dir", root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	made := root + "/run/systemd/network/10-netplan-xnf0.network"
	b, err := os.ReadFile(made)
	if err != nil || !strings.Contains(string(b), "RequiredForOnline=no\n") {
		t.Fatalf("%v: %s", err, b)
	}
	// wait-online waits for one link at least, and there is no other here.
	file := writeFile(t, filepath.Join(root, "x.network"), strings.Replace(string(b), "RequiredForOnline=no\n", "RequiredForOnline=no-carrier\n", 1))
	online(t, file, "192.0.2.10/24")
}

// dhcpcd has a /run of its own, and runs none of its hooks, since one of them writes the
// machine's /etc/resolv.conf.
const dhcpcd = `set -e
mount -t tmpfs tmpfs /run
mkdir /run/dhcpcd
mount -t sysfs -o ro sysfs /sys
dhcpcd -B -c /bin/true -f "$1" xnf0 2>"$2" & pid=$!
trap 'kill $pid; wait $pid || true' EXIT
until ip -4 addr show dev xnf0 | grep -q inet; do kill -0 $pid; sleep 0.1; done
ip -4 -o addr show dev xnf0`

func TestAddressOfTheExampleForDhcpcdComesWithoutACarrier(t *testing.T) {
	needs.Program(t, "dhcpcd")
	m := newMachine(t, xensim.Options{}, 0)
	d := m.start("--vif", "0")
	d.await("READY=1")
	example, err := filepath.Abs("../../deploy/dhcpcd/xnf0.conf") // dhcpcd changes its directory
	if err != nil {
		t.Fatal(err)
	}
	said := filepath.Join(t.TempDir(), "dhcpcd")
	out, err := m.command("timeout", "30", "unshare", "--mount", "bash", "-c", dhcpcd, "bash", example, said)
	if err != nil || !strings.Contains(out, "inet 192.0.2.10/24") {
		log, _ := os.ReadFile(said)
		t.Errorf("%v: %s\ndhcpcd says:\n%s", err, out, log)
	}
}

// udev prints what the package's rules do with the TAP, with Qubes' unit and without it.
const udev = `set -e
mount -t sysfs -o ro sysfs /sys
mount -t tmpfs tmpfs /usr/lib/udev/rules.d
cp "$1" /usr/lib/udev/rules.d/60-xnetfrontd.rules
mount -t tmpfs tmpfs /usr/lib/systemd/system
[ -z "$2" ] || touch "/usr/lib/systemd/system/$2"
udevadm test --action="$3" /sys/class/net/xnf0`

// The unit stays active when its TAP has gone. A start for the next TAP, which has no
// addresses, would then do nothing.
func TestUdevRestartsQubesUnitForEachTAPAndStopsItAfterwardsWhereThereIsOne(t *testing.T) {
	for _, program := range []string{"udevadm", "unshare"} {
		needs.Program(t, program)
	}
	m := newMachine(t, xensim.Options{}, 0)
	d := m.start("--vif", "0")
	d.await("READY=1")
	for action, verb := range map[string]string{"add": "restart", "remove": "stop"} {
		for unit, want := range map[string]bool{"qubes-network-uplink@.service": true, "": false} {
			out, err := m.command("unshare", "--mount", "bash", "-c", udev, "bash", "../../deploy/udev/60-xnetfrontd.rules", unit, action)
			run := "/usr/bin/systemctl --no-block --job-mode=replace " + verb + " qubes-network-uplink@xnf0.service"
			if got := strings.Contains(out, run); err != nil || got != want || !want && strings.Contains(out, "qubes") {
				t.Errorf("%s with %q: %s %v, %v:\n%s", action, unit, verb, got, err, out)
			}
		}
	}
}
