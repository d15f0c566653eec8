package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// reconnectGoal is for the time from a backend that is there to a vif that is served.
const reconnectGoal = 2 * time.Second

func restore() Scenario {
	return Scenario{
		Name: "restore",
		Proves: "xl save and xl restore, three times in a row and once more while no daemon runs: the TCP session goes on with the same hashes, " +
			"the holder keeps the old event channels, and the guest's kernel has nothing to say about them, not when the daemon stops and not when the guest goes off",
		Takes: 44 * time.Second,
		Run: func(t *T) {
			u := t.DomU(lab.DomUConfig{Name: "restore", Vifs: []lab.VifConfig{{}}})
			s := serve(t, u, 0, numberGuest)
			session := openFlow(t, in(t.Dom0), in(u.Guest), ipv4(numberGuest), "5003", mib/2)
			channels := heldChannels(t, u)
			for range 3 {
				saveAndRestore(t, u)
				began := time.Now()
				s.await()
				within(t, "served after a restore", time.Since(began), reconnectGoal)
				reachesSoon(t, in(t.Dom0), ipv4(numberGuest))
			}
			parked(t, u, "three restores", 4*channels)

			t.NoError(s.Signal(t.Context(), unix.SIGUSR2), "have the daemon leave")
			_, err := s.Wait(t.Context())
			t.NoError(err, "have the daemon leave")
			saveAndRestore(t, u)
			began := time.Now()
			s = start(t, u, 0)
			s.await()
			within(t, "served by a daemon started after a restore", time.Since(began), reconnectGoal)
			reachesSoon(t, in(t.Dom0), ipv4(numberGuest))
			parked(t, u, "four restores", 5*channels)

			sent := finish(session)
			t.Reportf("the TCP session: %.1f MiB in %.0f s, %.1f s without a byte at most", float64(sent.Bytes)/mib, sent.Seconds, sent.GapMS/1000)
			s.stop()
			parked(t, u, "a stop", 4*channels)
			nothingMapped(t, u, "after a stop")
			noComplaint(t, "the guest's kernel", run(t, u.Guest, "dmesg"))
			powerOff(t, u)
			noFatal(t)
		},
	}
}

// saveAndRestore has the toolstack save the guest and restore it.
func saveAndRestore(t *T, u *lab.DomU) {
	began := time.Now()
	shell(t, t.Dom0, fmt.Sprintf("xl save %s /tmp/%[1]s.saved >/dev/null 2>&1", u.Name))
	saved := time.Now()
	shell(t, t.Dom0, fmt.Sprintf("xl restore /tmp/%s.saved >/tmp/restore.log 2>&1 || { cat /tmp/restore.log >&2; exit 1; }; rm /tmp/%[1]s.saved", u.Name))
	t.Logf("saved in %.1f s, restored in %.1f s", saved.Sub(began).Seconds(), time.Since(saved).Seconds())
	t.NoError(u.Reconnect(t.Context()), "the restored guest")
}

// heldChannels is how many descriptors of event channels the holder has.
func heldChannels(t *T, u *lab.DomU) int {
	out := shell(t, u.Guest, `for p in /proc/[0-9]*; do
			if [ "$(tr '\0' '\n' <$p/cmdline | head -n 1)" = @xnetfrontd-hold ]; then ls -l $p/fd; fi
		done`)
	return strings.Count(out, "/dev/xen/evtchn")
}

// parked wants the holder to have so many descriptors of event channels.
func parked(t *T, u *lab.DomU, after string, want int) {
	if got := heldChannels(t, u); got != want || got == 0 {
		t.Errorf("after %s the holder has %d descriptors of event channels, not %d", after, got, want)
	}
}

var complaint = regexp.MustCompile(`\bBUG\b|Oops|WARNING|Call Trace|Kernel panic|general protection`)

// noComplaint fails if a kernel's log has a line of a crash.
func noComplaint(t *T, who, log string) {
	for line := range strings.Lines(log) {
		if complaint.MatchString(line) {
			t.Errorf("%s: %s", who, strings.TrimSpace(line))
		}
	}
}

// powerOff has the guest go off, and wants it gone: a crashed one would be preserved.
func powerOff(t *T, u *lab.DomU) {
	_, err := u.Start(t.Context(), "poweroff", "-f")
	t.NoError(err, "power off")
	run(t, t.Dom0, lab.AgentPath, "await-store", "--gone", fmt.Sprintf("/local/domain/%d", u.ID()))
	console, err := os.ReadFile(filepath.Join(t.Lab.ShareDir(), "console", "guest-"+u.Name+".log"))
	t.NoError(err, "the guest's console")
	noComplaint(t, "the guest's console", string(console))
}
