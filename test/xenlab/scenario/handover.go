package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

const (
	numberedPackets = 10000
	numberedRate    = 5000
	kills           = 10
	// longQueue is how many frames the TAP and dom0's vif keep while nobody takes them. It
	// costs the guest 6 KB for each: the kernel gives a TAP of several queues 256 of them.
	longQueue = 10000
)

func handover() Scenario {
	return Scenario{
		Name: "handover",
		Proves: "a restart (SIGUSR2) and an upgrade to another build lose, repeat and reorder no packet of numbered streams both ways and change no byte of TCP flows, " +
			"and the backend is never told; SIGKILL, ten times, loses at most a batch of 32 each way and repeats nothing; Xen has the same grants mapped all the while, and after a stop none",
		Takes:   60 * time.Second,
		Timeout: 15 * time.Minute,
		Run: func(t *T) {
			u := t.DomU(lab.DomUConfig{Name: "handover", MemMiB: 384, Vifs: []lab.VifConfig{{}}, Payload: map[string]string{otherBuild: buildAnother(t)}})
			k := keepUp(t, u)
			rate := calibrate(t, u)
			grants, unchanged := mappedGrants(t, u), watchKeys(t, u)
			k.streamAcross(rate, "restart")
			k.upgrade()
			k.streamAcross(rate, "upgrade")
			k.flowsAcross()
			k.killed(rate)
			unchanged()
			if now := mappedGrants(t, u); !slices.Equal(now, grants) {
				t.Errorf("grants of the guest mapped by others: before\n%s\nnow\n%s", strings.Join(grants, "\n"), strings.Join(now, "\n"))
			}
			reachesSoon(t, in(t.Dom0), ipv4(numberGuest))
			k.stop()
			nothingMapped(t, u, "after a stop")
			noFatal(t)
		},
	}
}

// Where the daemon's builds are in the guest.
const (
	otherBuild   = "/lab/other"
	currentBuild = "/run/lab/xnetfrontd"
)

// buildAnother builds the daemon once more, so that it says another version.
func buildAnother(t *T) string {
	path, err := filepath.Abs(filepath.Join(t.Dir(), "xnetfrontd"))
	t.NoError(err, "build the daemon")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -X main.version=another",
		"-o", path, "./cmd/xnetfrontd")
	cmd.Dir = t.runner.Source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	t.Require(err == nil, "build the daemon: %v: %s", err, out)
	return path
}

// keptUp is a daemon that is started again whenever it ends, as a service manager does.
type keptUp struct {
	t          *T
	u          *lab.DomU
	supervisor *lab.Process
	starts     int // that took over
}

// keepUp starts the daemon for vif 0, to be kept up, and waits until both sides are
// connected. Both sides' queues are long from then on.
func keepUp(t *T, u *lab.DomU) *keptUp {
	t.NoError(u.InstallDaemon(t.Context()), "install the daemon")
	shell(t, u.Guest, "mkdir -p /run/lab; cp "+lab.DaemonPath+" "+currentBuild)
	p, err := u.StartCommand(t.Context(), lab.Command{Detached: lab.DaemonLog, Argv: []string{"/bin/sh", "-c", fmt.Sprintf(`cd /run/lab
		while [ ! -e stop ]; do
			%s run --vif 0 --txqueuelen %d &
			echo $! >pid.new
			mv pid.new pid
			wait $!
		done`, currentBuild, longQueue)}})
	t.NoError(err, "start the daemon")
	k := &keptUp{t: t, u: u, supervisor: p}
	t.NoError(u.AwaitBackend(t.Context(), 0, 4), "wait for the backend")
	t.NoError(u.AwaitCarrier(t.Context(), 0, true), "wait for the carrier")
	bridged.address(t, u.Guest, "xnf0", numberGuest)
	shell(t, t.Dom0, fmt.Sprintf("ip link set %s txqueuelen %d", u.Vif(0), longQueue))
	k.keepNeighbours()
	reachesSoon(t, in(t.Dom0), ipv4(numberGuest))
	return k
}

// keepNeighbours has both sides know each other's MAC for good: on a slow machine a
// start takes long enough for ARP to give up, and what it drops then is nobody's fault.
func (k *keptUp) keepNeighbours() {
	mac := func(g *lab.Guest, link string) string {
		return strings.TrimSpace(shell(k.t, g, "cat /sys/class/net/"+link+"/address"))
	}
	const neighbour = "ip neigh replace %s lladdr %s dev %s nud permanent"
	shell(k.t, k.u.Guest, fmt.Sprintf(neighbour, ipv4(numberDom0), mac(k.t.Dom0, lab.Bridge), "xnf0"))
	shell(k.t, k.t.Dom0, fmt.Sprintf(neighbour, ipv4(numberGuest), mac(k.u.Guest, "xnf0"), lab.Bridge))
	k.t.Cleanup(func(ctx context.Context) error {
		_, err := k.t.Dom0.Run(ctx, "ip", "neigh", "del", ipv4(numberGuest), "dev", lab.Bridge)
		return err
	})
}

// restart ends the daemon by a signal when the TAP has had some more frames, and waits
// until the next one has taken over.
func (k *keptUp) restart(s unix.Signal, frames int) {
	k.starts++
	shell(k.t, k.u.Guest, fmt.Sprintf(`%[1]s await-frames xnf0 %[2]d
		kill -%[3]d "$(cat /run/lab/pid)"
		%[1]s await-text %[4]s 'taken over from the last process' --times=%[5]d`, lab.AgentPath, frames, s, lab.DaemonLog, k.starts))
}

// upgrade puts another build in the place of the daemon's, and asks it, as a package
// does, whether it can take over.
func (k *keptUp) upgrade() {
	before := run(k.t, k.u.Guest, currentBuild, "version")
	shell(k.t, k.u.Guest, fmt.Sprintf("cp %s %[2]s.new; mv %[2]s.new %[2]s", otherBuild, currentBuild))
	after := run(k.t, k.u.Guest, currentBuild, "version")
	k.t.Require(before != after, "both builds are %s", before)
	k.t.Logf("%s", run(k.t, k.u.Guest, currentBuild, "adopt-check"))
}

// stop is the daemon's regular end, for good.
func (k *keptUp) stop() {
	shell(k.t, k.u.Guest, "touch /run/lab/stop; kill $(cat /run/lab/pid)")
	r, err := k.supervisor.Wait(k.t.Context())
	k.t.NoError(err, "wait for the daemon")
	k.t.Require(r.Code == 0, "the daemon ended with exit code %d %s", r.Code, r.Signal)
}

// calibrate finds the highest rate that the emulated machine carries both ways.
func calibrate(t *T, u *lab.DomU) int {
	for rate := numberedRate; rate >= 100; rate = rate * 2 / 3 {
		up, down := startStreams(t, u, rate, rate, 2*time.Second).wait()
		if up.lost()+down.lost() == 0 && min(up.sent.PerSecond, down.sent.PerSecond) > 0.9*float64(rate) {
			t.Reportf("streams of %d packets/s each way", rate)
			return rate
		}
	}
	t.Fatalf("not even 100 packets a second pass unharmed")
	return 0
}

// streamAcross restarts the daemon under a stream each way. A machine on which a start
// takes longer than netback keeps a frame gets another try.
func (k *keptUp) streamAcross(rate int, what string) {
	for range 3 {
		if k.tryStreamAcross(rate, what) {
			return
		}
	}
	k.t.Errorf("%s: this machine is too slow: no start was faster than netback's drain timeout", what)
}

// tryStreamAcross returns false if it says nothing, as the machine is too slow.
func (k *keptUp) tryStreamAcross(rate int, what string) bool {
	before := drops(k.t, k.u)
	s := startStreams(k.t, k.u, numberedPackets, rate, 20*time.Second)
	k.restart(unix.SIGUSR2, numberedPackets/4)
	up, down := s.wait()
	now, gap := drops(k.t, k.u), milliseconds(max(up.seen.GapMS, down.seen.GapMS))
	k.t.Reportf("%s: %d packets each way, %d lost; longest gap %.0f ms from the guest, %.0f ms to it",
		what, numberedPackets, up.lost()+down.lost(), up.seen.GapMS, down.seen.GapMS)
	if gap > drainTimeout(k.t)*9/10 {
		return false
	}
	for i, way := range []oneWay{up, down} {
		noneWrong(k.t, fmt.Sprintf("%s, stream %s", what, []string{"from the guest", "to the guest"}[i]), way.seen)
		if way.sent.Sent != numberedPackets {
			k.t.Errorf("%s: the sender's kernel refused %d packets", what, way.sent.Refused)
		}
	}
	if now != before {
		k.t.Errorf("%s: frames dropped by the TAP, by dom0's vif and by their queues: %+v before, %+v now", what, before, now)
	}
	return true
}

// flowsAcross restarts the daemon under TCP flows as fast as they go, one each way.
func (k *keptUp) flowsAcross() {
	guest, dom0 := in(k.u.Guest), in(k.t.Dom0)
	before := retransmitted(k.t, k.u)
	up := openFlow(k.t, guest, dom0, ipv4(numberDom0), "5003", 0)
	down := openFlow(k.t, dom0, guest, ipv4(numberGuest), "5004", 0)
	k.restart(unix.SIGUSR2, 500) // of up to 64 KiB each
	k.restart(unix.SIGUSR2, 500)
	sentUp, sentDown := finish(up), finish(down)
	k.t.Reportf("two restarts under TCP both ways: %d and %d MiB with the same hashes, longest gap %.0f and %.0f ms, %d segments sent again",
		sentUp.Bytes>>20, sentDown.Bytes>>20, sentUp.GapMS, sentDown.GapMS, retransmitted(k.t, k.u)-before)
}

// killed kills the daemon at random moments under a stream each way. What TAP or
// netback say that they have dropped is theirs: on a slow machine a start takes long.
func (k *keptUp) killed(rate int) {
	rate = min(rate/4, 100) // a start takes what the streams leave of the guest's CPU
	before := drops(k.t, k.u)
	s := startStreams(k.t, k.u, 1<<20, rate, time.Hour)
	for range kills {
		k.restart(unix.SIGKILL, 1+rand.IntN(rate/2))
	}
	up, down := s.stop()
	now := drops(k.t, k.u)
	k.t.Reportf("%d kills under streams of %d packets/s: %d of %d packets from the guest lost, %d of %d to it; longest gap %.0f and %.0f ms",
		kills, rate, up.lost(), up.sent.Sent, down.lost(), down.sent.Sent, up.seen.GapMS, down.seen.GapMS)
	for _, w := range []struct {
		oneWay
		dropped int
	}{{up, now.tap - before.tap}, {down, now.vif - before.vif}} {
		if w.lost()-w.dropped > kills*inHand || w.seen.Duplicated+w.seen.Corrupted+w.seen.Reordered != 0 {
			k.t.Errorf("%d kills: %+v: want at most %d lost besides those dropped, none duplicated, corrupted or reordered", kills, w, kills*inHand)
		}
	}
}

// watchKeys returns a function that fails if the vif's two state nodes were written
// meanwhile, or any other key has changed.
func watchKeys(t *T, u *lab.DomU) (unchanged func()) {
	states := []string{u.FrontendPath(0) + "/state", u.BackendPath(0) + "/state"}
	w, err := t.Dom0.Start(t.Context(), "xenstore-watch", states[0], states[1])
	t.NoError(err, "watch the states")
	for _, s := range states { // a watch fires once when it is set
		t.NoError(w.AwaitStdout(t.Context(), s+"\n"), "watch the states")
	}
	keys := func() string {
		return run(t, t.Dom0, "xenstore-ls", "-f", u.FrontendPath(0)) + run(t, t.Dom0, "xenstore-ls", "-f", u.BackendPath(0))
	}
	before := keys()
	return func() {
		if now := keys(); now != before {
			t.Errorf("keys of the vif: before\n%s\nnow\n%s", before, now)
		}
		t.NoError(w.Signal(t.Context(), unix.SIGTERM), "end the watch")
		r, err := w.Wait(t.Context())
		t.NoError(err, "end the watch")
		if fired := strings.Count(r.Stdout, "\n"); fired != len(states) {
			t.Errorf("state nodes were written: %s", r.Stdout)
		}
	}
}

// retransmitted is how many TCP segments both sides have sent again.
func retransmitted(t *T, u *lab.DomU) int {
	sum := 0
	for _, g := range []*lab.Guest{u.Guest, t.Dom0} {
		const field = 13 // RetransSegs, with the line's name in front
		n, err := strconv.Atoi(strings.TrimSpace(shell(t, g, fmt.Sprintf("grep '^Tcp: [0-9]' /proc/net/snmp | cut -d' ' -f%d", field))))
		t.NoError(err, "TCP's counters")
		sum += n
	}
	return sum
}
