package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

// networkd runs systemd-networkd in the daemon's namespace, with a /run of its own, until
// systemd-networkd-wait-online says that the boot can go on, or 30 s, ten times what that
// takes. A /sys that cannot be written to tells it that no udev is to be waited for.
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

// systemdPrograms is where systemd's own programs are.
func systemdPrograms(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/usr/lib/systemd", "/lib/systemd"} {
		if _, err := os.Stat(dir + "/systemd-networkd-wait-online"); err == nil {
			return dir
		}
	}
	t.Skip("needs systemd-networkd")
	return ""
}

// asStatic is the example as a user changes it for addresses of their own.
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

func TestBootWithAddressesOfTheExampleForNetworkdDoesNotWaitForABackend(t *testing.T) {
	dir := systemdPrograms(t)
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Skip(err)
	}
	m := newMachine(t, xensim.Options{}, 0)
	d := m.start("--vif", "0") // its backend is not there: no carrier
	d.await("READY=1")
	said := filepath.Join(t.TempDir(), "networkd")
	out, err := m.command("unshare", "--mount", "bash", "-c", networkd, "bash", asStatic(t, "../../deploy/networkd/60-xnf.network"), dir, said)
	if err != nil {
		log, _ := os.ReadFile(said)
		t.Fatalf("%v: %s\nnetworkd says:\n%s", err, out, log)
	}
	if got, want := m.addresses("xnf0"), []string{"192.0.2.10/24", "2001:db8::10/64"}; !slices.Equal(got, want) {
		t.Errorf("addresses %s, want %s", got, want)
	}
}
