package scenario

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// The units that the package brings.
const (
	daemonUnit   = "xnetfrontd.service"
	claimUnit    = "xnetfrontd-claim.service"
	holderUnit   = "xnetfrontd-hold.service"
	holderSocket = "xnetfrontd-hold.socket"
)

// buildDeb builds the project's package with this version, unless a scenario of this run
// has done so, and returns its file.
func buildDeb(t *T, version string) string {
	path, err := t.runner.packages.get(version, func() (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(t.runner.Source, "deploy", "packages", "build.sh"), t.Dir(), "amd64", "deb", version)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return strings.TrimSpace(string(out)), err
	})
	t.NoError(err, "build the package")
	t.Logf("package %s is built", version)
	return path
}

// packages are those that were built in a run, by their version.
type packages struct {
	mu    sync.Mutex // held while one is built: who comes meanwhile waits for it
	paths map[string]string
}

// get is the package with this version, built if it is not there.
func (p *packages) get(version string, build func() (path string, err error)) (path string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if path, ok := p.paths[version]; ok {
		return path, nil
	}
	if path, err = build(); err != nil {
		return "", err
	}
	if p.paths == nil {
		p.paths = map[string]string{}
	}
	p.paths[version] = path
	return path, nil
}

// debian is a guest with systemd, in which the daemon is a unit and serves vif 0.
type debian struct {
	t *T
	u *lab.DomU
}

func (d *debian) sh(script string) string { return d.t.Sh(d.u.Guest, script) }

// booted waits until systemd has started all that it starts at boot, and returns how
// long that took from the kernel's start.
func (d *debian) booted() time.Duration {
	// "degraded" is for the caller to look into, with an exit code of its own.
	state := strings.TrimSpace(d.sh("systemctl is-system-running --wait || true"))
	if state != "running" {
		d.t.Errorf("the system is %s after its boot: %s", state, d.sh("systemctl --failed --no-legend --plain"))
	}
	return d.since("", "FinishTimestampMonotonic")
}

// since is a time that systemd notes of a unit, from the kernel's start.
func (d *debian) since(unit, property string) time.Duration {
	us, err := strconv.ParseInt(d.show(unit, property)[property], 10, 64)
	d.t.NoError(err, unit+": "+property)
	return time.Duration(us) * time.Microsecond
}

// show is what "systemctl show" says of a unit, or of the manager if it has no name.
func (d *debian) show(unit string, properties ...string) map[string]string {
	argv := []string{"systemctl", "show", "--property", strings.Join(properties, ",")}
	if unit != "" {
		argv = append(argv, unit)
	}
	values := map[string]string{}
	for line := range strings.Lines(run(d.t, d.u.Guest, argv...)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[k] = v
		}
	}
	d.t.Logf("%s: %v", strings.Join(argv, " "), values)
	return values
}

// wants fails for each property of a unit that has another value.
func (d *debian) wants(unit string, want map[string]string) {
	var names []string
	for k := range want {
		names = append(names, k)
	}
	slices.Sort(names)
	got := d.show(unit, names...)
	for _, k := range names {
		if got[k] != want[k] {
			d.t.Errorf("%s: %s is %q, want %q", unit, k, got[k], want[k])
		}
	}
}

// dpkg installs a package. The image leaves documentation out, as small systems do,
// and with it the examples.
func (d *debian) dpkg(version string) string {
	return d.sh("dpkg --path-include='/usr/share/doc/xnetfrontd/*' -i /root/" + version + ".deb 2>&1")
}

// healthy wants daemon and holder to run.
func (d *debian) healthy() {
	d.wants(daemonUnit, map[string]string{"ActiveState": "active", "SubState": "running", "Type": "notify", "NRestarts": "0", "Result": "success", "StatusText": "vif 0: TAP xnf0"})
	d.wants(holderUnit, map[string]string{"ActiveState": "active", "SubState": "running", "NRestarts": "0"})
}

// stopped wants what a stop leaves: a vif that waits for a frontend, and no TAP.
func (d *debian) stopped() {
	const initWait = 2
	d.t.NoError(d.u.AwaitBackend(d.t.Context(), 0, initWait), "the backend after a stop")
	d.t.NoError(d.u.AwaitCarrier(d.t.Context(), 0, false), "the carrier after a stop")
	d.wants(daemonUnit, map[string]string{"ActiveState": "inactive", "SubState": "dead", "Result": "success"})
	if out := d.sh("ip -br link show dev xnf0 2>/dev/null || true"); out != "" {
		d.t.Errorf("after a stop there is a TAP: %s", out)
	}
}

// mainPID is the process of a unit, 0 if there is none.
func (d *debian) mainPID(unit string) string { return d.show(unit, "MainPID")["MainPID"] }

// served waits until the daemon has connected the vif, and wants dom0 to reach the guest
// at the vif's address.
func (d *debian) served() {
	const connected = 4
	run(d.t, d.u.Guest, lab.AgentPath, "await-carrier", "xnf0") // the kernel's driver connects too
	d.t.NoError(d.u.AwaitBackend(d.t.Context(), 0, connected), "wait for the backend")
	d.t.NoError(d.u.AwaitCarrier(d.t.Context(), 0, true), "wait for the carrier")
	reaches(d.t, in(d.t.Dom0), ipv4(numberGuest))
	if got, want := linkAddress(d.t, d.u.Guest, "xnf0"), d.u.Config.Vifs[0].MAC; got != want {
		d.t.Errorf("the TAP has address %s, the vif %s", got, want)
	}
}

// negotiated is all that the two sides have told each other.
func (d *debian) negotiated() string {
	return run(d.t, d.t.Dom0, "xenstore-ls", d.u.FrontendPath(0)) + run(d.t, d.t.Dom0, "xenstore-ls", d.u.BackendPath(0))
}

// Streams of numbered packets that go on while something is done to the daemon.
const (
	// streamRate is packets in a second, each way. At 50 they take the emulated CPU for
	// themselves on a machine that is busy, and what is done meanwhile four times as long.
	streamRate = 20
	// queueLen holds what comes while no daemon is there, for 40 s. Each costs 2 KB of the
	// guest's memory, for the kernel gives a TAP of several queues 256 of them.
	queueLen = 40 * streamRate
	// killedBatch is what a process that is killed may have in its hands.
	killedBatch = 32
)

// loses wants at most so many packets to be lost of streams each way while act is
// done, none to come twice or out of order, and neither side to write a word to xenstore.
func (d *debian) loses(most int, what string, act func()) {
	t := d.t
	run(t, t.Dom0, "ip", "link", "set", d.u.Vif(0), "txqueuelen", strconv.Itoa(queueLen))
	// Addresses are not to be resolved again meanwhile: that takes answers, and drops.
	shell(t, d.u.Guest, fmt.Sprintf("ip neigh replace %s dev xnf0 nud permanent lladdr %s", ipv4(numberDom0), linkAddress(t, t.Dom0, lab.Bridge)))
	shell(t, t.Dom0, fmt.Sprintf("ip neigh replace %s dev %s nud permanent lladdr %s", ipv4(numberGuest), lab.Bridge, d.u.Config.Vifs[0].MAC))
	before := d.negotiated()
	states, err := t.Dom0.Start(t.Context(), "xenstore-watch", d.u.FrontendPath(0), d.u.BackendPath(0))
	t.NoError(err, "watch xenstore")
	t.NoError(states.AwaitStdout(t.Context(), d.u.BackendPath(0)), "watch xenstore")

	flows := []*flow{
		startFlow(t, in(t.Dom0), in(d.u.Guest), ipv4(numberGuest)),
		startFlow(t, in(d.u.Guest), in(t.Dom0), ipv4(numberDom0)),
	}
	began := time.Now()
	act()
	took := time.Since(began)
	d.served()
	for i, direction := range []string{"to the guest", "from the guest"} {
		seen, sent := flows[i].end()
		lost := sent.Sent - seen.Received
		if i == 0 && milliseconds(seen.GapMS) > drainTimeout(t) {
			t.Reportf("%s: this machine is slow: netback itself dropped some of the %d that were lost on the way to the guest", what, lost)
			lost = 0
		}
		if lost > most || seen.Duplicated+seen.Reordered+seen.Corrupted+sent.Refused != 0 {
			t.Errorf("%s: %s: %d packets sent and %d refused by the kernel, %d came: %+v", what, direction, sent.Sent, sent.Refused, seen.Received, seen)
		}
		t.Reportf("%s: %.1f s; %s %d of %d packets, longest gap %.0f ms", what, took.Seconds(), direction, seen.Received, sent.Sent, seen.GapMS)
	}
	t.NoError(states.Signal(t.Context(), unix.SIGTERM), "stop watching xenstore")
	r, err := states.Wait(t.Context())
	t.NoError(err, "watch xenstore")
	if events := strings.Fields(r.Stdout); len(events) != 2 { // each watch fires once at its start
		t.Errorf("%s: the vif was negotiated anew: %v", what, events[2:])
	}
	if after := d.negotiated(); after != before {
		t.Errorf("%s: xenstore had\n%s\nand has\n%s", what, before, after)
	}
}

// linkAddress is the MAC address of a link.
func linkAddress(t *T, g *lab.Guest, link string) string {
	return strings.TrimSpace(shell(t, g, "cat /sys/class/net/"+link+"/address"))
}

// flow is a stream of packets with no end of its own.
type flow struct {
	t            *T
	source, sink *tool
	address      string
	from         place
}

func startFlow(t *T, from, to place, address string) *flow {
	f := &flow{t: t, address: address, from: from}
	f.sink = to.listen(t, "stream-sink", port("", "5002"), "--quiet=120s")
	f.source = from.launch(t, "stream", port(address, "5002"), fmt.Sprintf("--rate=%d", streamRate), fmt.Sprintf("--size=%d", streamSize), "--packets=1000000")
	return f
}

// end ends it and waits for its last packet.
func (f *flow) end() (traffic.Seen, traffic.Streamed) {
	sent := interrupt[traffic.Streamed](f.source)
	reaches(f.t, f.from, f.address) // behind the last packet, which has come then
	return interrupt[traffic.Seen](f.sink), sent
}
