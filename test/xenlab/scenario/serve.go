package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Hosts of a network have numbers; dom0's is 1.
const (
	numberDom0  = 1
	numberGuest = 2 // the guest with the daemon
	numberOther = 3 // a second guest
	numberThird = 9 // the host behind the bridge, see thirdHost
)

// network is a pair of subnets, 10.<network>.0.0/24 and fd<network>::/64.
type network int

const (
	bridged network = 77 // the one that dom0's bridge is in from the start
	second  network = 78 // of a guest's second vif
	tagged  network = 79 // in a VLAN
	jumbo   network = 80 // of a bridge of its own, for large frames
	stacked network = 81 // of what stands on a bond
)

func (w network) ipv4(n int) string { return fmt.Sprintf("10.%d.0.%d", w, n) }
func (w network) ipv6(n int) string { return fmt.Sprintf("fd%d::%d", w, n) }

func ipv4(n int) string { return bridged.ipv4(n) }
func ipv6(n int) string { return bridged.ipv6(n) }

// port is address:port.
func port(address, number string) string {
	if strings.Contains(address, ":") {
		return "[" + address + "]:" + number
	}
	return address + ":" + number
}

// served is a vif that the daemon serves.
type served struct {
	*lab.Daemon
	t      *T
	u      *lab.DomU
	devid  int
	tap    string
	logged int // bytes in the log before the start
}

// serve starts the daemon for vif devid of u on the TAP xnf<devid>, gives that the
// addresses of number n, and waits until both sides are connected. Args are added to
// "xnetfrontd run --vif".
func serve(t *T, u *lab.DomU, devid, n int, args ...string) *served {
	s := start(t, u, devid, args...)
	bridged.address(t, u.Guest, s.tap, n)
	s.await()
	return s
}

// start is serve without addresses and without a wait.
func start(t *T, u *lab.DomU, devid int, args ...string) *served {
	return startDaemon(t, u, devid, append([]string{"run", "--vif", strconv.Itoa(devid)}, args...)...)
}

// startDaemon starts "xnetfrontd args...", which serve vif devid among others.
func startDaemon(t *T, u *lab.DomU, devid int, args ...string) *served {
	s := &served{t: t, u: u, devid: devid, tap: "xnf" + strconv.Itoa(devid)}
	if log, err := u.ReadFile(t.Context(), lab.DaemonLog); err == nil {
		s.logged = len(log)
	}
	s.Daemon = t.StartDaemon(u, args...)
	return s
}

// serveTwo starts one daemon for vifs 0 and 1 of u. It waits for neither, and gives them
// no addresses.
func serveTwo(t *T, u *lab.DomU) [2]*served {
	const config = "/run/xnetfrontd/two.toml"
	t.NoError(u.WriteFile(t.Context(), config, []byte("[[vif]]\ndevid = 0\n\n[[vif]]\ndevid = 1\n"), 0o644), "write the configuration")
	first := startDaemon(t, u, 0, "run", "--config", config)
	return [2]*served{first, {Daemon: first.Daemon, t: t, u: u, devid: 1, tap: "xnf1"}}
}

// await waits until the backend is Connected and has its carrier: the rings are mapped.
func (s *served) await() {
	const connected = 4
	s.t.NoError(s.u.AwaitBackend(s.t.Context(), s.devid, connected), "wait for the backend")
	s.t.NoError(s.u.AwaitCarrier(s.t.Context(), s.devid, true), "wait for the carrier")
}

// stop is a daemon's regular end.
func (s *served) stop() {
	s.t.NoError(s.Daemon.Stop(s.t.Context()), "stop the daemon")
}

// kill is SIGKILL.
func (s *served) kill() {
	s.t.NoError(s.Daemon.Kill(s.t.Context()), "kill the daemon")
}

// log is what this daemon has written so far.
func (s *served) log() string {
	log, err := s.Daemon.Log(s.t.Context())
	s.t.NoError(err, "read the daemon's log")
	return log[min(s.logged, len(log)):]
}

// vifStatus is what scenarios want to know from "xnetfrontd status --json" of a vif.
type vifStatus struct {
	IfIndex    int               `json:"ifindex"`
	NetNS      string            `json:"netns"`
	State      string            `json:"state"`
	Reason     string            `json:"reason"`
	Connects   int               `json:"connects"`
	Disabled   bool              `json:"disabled"`
	Features   map[string]bool   `json:"features"`
	Missing    map[string]string `json:"missing"`
	Grants     int               `json:"grants"`
	Off        string            `json:"off"`
	Violations int               `json:"violations"`
}

// status is what the daemon says of the vif.
func (s *served) status() vifStatus {
	var st struct {
		Vifs []struct {
			DevID  int        `json:"devid"`
			Device *vifStatus `json:"device"`
		} `json:"vifs"`
	}
	out := run(s.t, s.u.Guest, "xnetfrontd", "status", "--json")
	s.t.NoError(json.Unmarshal([]byte(out), &st), "read the daemon's status")
	for _, v := range st.Vifs {
		if v.DevID == s.devid && v.Device != nil {
			return *v.Device
		}
	}
	s.t.Fatalf("the daemon does not serve vif %d: %s", s.devid, out)
	return vifStatus{}
}

// address gives a link the addresses of number n, which it may have, and sets it up.
func (w network) address(t *T, g *lab.Guest, link string, n int) {
	shell(t, g, fmt.Sprintf(`ip link set %[1]s up
		ip addr replace %[2]s/24 dev %[1]s
		ip addr replace %[3]s/64 dev %[1]s nodad`, link, w.ipv4(n), w.ipv6(n)))
}

// thirdHost makes a host of its own behind dom0's bridge: a network namespace in dom0,
// whose end of the wire is eth0; dom0's is "third". While dom0 hands frames over
// there as they are, blank checksums and all, "ethtool -K third tx off" makes it
// finish and cut what it forwards.
func thirdHost(t *T) place {
	t.Cleanup(func(ctx context.Context) error {
		_, err := t.Dom0.Run(ctx, "ip", "netns", "del", "third")
		return err
	})
	shell(t, t.Dom0, fmt.Sprintf(`ip netns add third
		ip link add third type veth peer name eth0 netns third
		ip link set third master %s up
		ip -n third link set lo up
		ip -n third link set eth0 up
		ip -n third addr add %s/24 dev eth0
		ip -n third addr add %s/64 dev eth0 nodad`, lab.Bridge, ipv4(numberThird), ipv6(numberThird)))
	return place{Guest: t.Dom0, space: "third"}
}

// run runs a command that must succeed, and returns what it wrote.
func run(t *T, g *lab.Guest, argv ...string) string {
	out, err := g.Run(t.Context(), argv...)
	t.NoError(err, "run")
	return out
}

// shell runs a script that must succeed, and returns what it wrote.
func shell(t *T, g *lab.Guest, script string) string {
	out, err := g.Shell(t.Context(), script)
	t.NoError(err, "run")
	return out
}

// noFatal fails if netback has disabled a vif since dom0 has booted.
func noFatal(t *T) {
	for line := range strings.Lines(run(t, t.Dom0, "dmesg")) {
		if strings.Contains(line, "fatal error") {
			t.Errorf("netback: %s", strings.TrimSpace(line))
		}
	}
}
