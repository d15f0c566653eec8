// Package handover proves on the embedded Xen, with the program itself as processes,
// that nothing is lost: not by a restart, an upgrade, or a crash of the daemon, nor by a
// backend that dies, moves or is bound anew, nor by a save and restore of the guest.
//
// The embedded Xen and its netback are in the test's process, the daemons and their
// holder are children in a network namespace; a bridge with netback's TAP is in another.
// Figures are printed with their goals; a test fails on a time only at ten times its
// goal.
package handover

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// programs are builds of xnetfrontd.
type programs struct {
	plain    string
	upgraded string // another version
	crashing string // that dies where XNETFRONTD_CRASH says
	raced    string // with the race detector; empty where there is none
}

func build(t *testing.T) programs {
	t.Helper()
	dir := t.TempDir()
	one := func(name, cgo string, args ...string) string {
		path := filepath.Join(dir, name)
		cmd := exec.Command("go", append(append([]string{"build", "-o", path}, args...), "github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd")...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build %s: %v\n%s", name, err, out)
		}
		return path
	}
	p := programs{
		plain:    one("plain", "0", "-trimpath", "-ldflags", "-s -w -X main.version=1.0"),
		upgraded: one("upgraded", "0", "-trimpath", "-ldflags", "-s -w -X main.version=2.0"),
		crashing: one("crashing", "0", "-trimpath", "-tags", "crashpoints"),
	}
	if raceDetector {
		p.raced = one("raced", "1", "-race")
	}
	return p
}

// TestNothingIsLost has everything in it, since all of it stands on the same builds.
func TestNothingIsLost(t *testing.T) {
	needs.Root(t)
	p := build(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, programs)
	}{
		{"restart and upgrade under packets", restartUnderPackets},
		{"restart and upgrade under a transfer", restartUnderTransfer},
		{"kills under packets", killsUnderPackets},
		{"kills under packets with the race detector", killsOfRaced},
		{"kills under a transfer", killsUnderTransfer},
		{"crash at every step", crashAtEveryStep},
		{"five processes die of taking over", deadlyTakeOver},
		{"holder is killed", holderIsKilled},
		{"second daemon", secondDaemon},
		{"driver domain comes back under another number", driverDomainMoves},
		{"netback is bound anew", netbackIsBoundAnew},
		{"guest is restored three times", guestIsRestored},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, p) })
	}
}
