package scenario

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

const (
	restartRounds = 10
	answerLimit   = time.Minute // for a connection, on a busy machine
)

func restarts() Scenario {
	return Scenario{
		Name: "restarts",
		Proves: "start, SIGKILL, start and stop, ten times in a row under ping: connected again each time, and at the end " +
			"Xen has the same grants mapped and the same event channels open as before; netback never disables the vif",
		Takes: 27 * time.Second,
		Run: func(t *T) {
			u := t.SharedDomU()
			serve(t, u, 0, numberGuest).stop()
			grants, channels := mappedGrants(t, u), eventChannels(t, u)

			pinger, err := t.Dom0.Start(t.Context(), "ping", "-n", "-q", "-i", "0.2", ipv4(numberGuest))
			t.NoError(err, "start ping")
			for round := range restartRounds {
				s := startAgain(t, u, fmt.Sprintf("round %d, started", round))
				s.kill()
				s = startAgain(t, u, fmt.Sprintf("round %d, killed and started", round))
				s.stop()
			}
			t.NoError(pinger.Signal(t.Context(), unix.SIGINT), "stop ping")
			r, err := pinger.Wait(t.Context())
			t.NoError(err, "wait for ping")
			p, err := parsePings(r.Stdout)
			t.NoError(err, "ping")
			t.Reportf("%d starts; of the pings 0.2 s apart all the while %d of %d were answered", 2*restartRounds, p.received, p.sent)

			if now := mappedGrants(t, u); !slices.Equal(now, grants) {
				t.Errorf("grants of the guest mapped by others: before\n%s\nnow\n%s", strings.Join(grants, "\n"), strings.Join(now, "\n"))
			}
			if now := eventChannels(t, u); now != channels {
				t.Errorf("open event channels of the guest: %d before, %d now", channels, now)
			}
			noFatal(t)
		},
	}
}

// startAgain starts the daemon and waits for the other side's answer to a ping, which
// needs both to be connected.
func startAgain(t *T, u *lab.DomU, when string) *served {
	s := start(t, u, 0)
	bridged.address(t, u.Guest, s.tap, numberGuest)
	// Ping gives up when nobody answers its ARP for 3 s, however long it may take.
	for end := time.Now().Add(answerLimit); ; {
		p, err := ping(t.Context(), in(t.Dom0), ipv4(numberGuest), "-c", "1", "-W", "2")
		t.NoError(err, "ping")
		if p.received == 1 {
			break
		}
		t.Require(time.Now().Before(end), "%s: no answer to a ping in %s", when, answerLimit)
	}
	return s
}

// mappedGrants are the lines of Xen's own dump about grants of the guest that somebody
// has mapped.
func mappedGrants(t *T, u *lab.DomU) []string {
	dump := shell(t, t.Dom0, `xl dmesg -c >/dev/null
		xl debug-keys g
		until xl dmesg | grep -q 'gnttab_usage_print_all ] done'; do usleep 50000; done
		xl dmesg`)
	lines := grantsOf(dump, u.ID())
	t.Require(len(lines) > 0, "Xen's dump has no grants of domain %d, whose console is one: %s", u.ID(), dump)
	return lines
}

// grantsOf returns what such a dump says of one domain's grants.
func grantsOf(dump string, domid int) []string {
	var lines []string
	ours := false
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "(XEN)"))
		switch {
		case strings.HasPrefix(line, "grant-table for remote"):
			ours = strings.HasPrefix(line, fmt.Sprintf("grant-table for remote d%d ", domid))
		case ours && strings.HasPrefix(line, "[0x"):
			lines = append(lines, line)
		}
	}
	return lines
}

// eventChannels is how many event channels of the guest Xen has open.
func eventChannels(t *T, u *lab.DomU) int {
	return len(strings.Split(strings.TrimSpace(run(t, t.Dom0, "lsevtchn", fmt.Sprint(u.ID()))), "\n"))
}
