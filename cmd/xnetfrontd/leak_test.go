package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// usage is what a process uses of the machine.
type usage struct{ fds, threads, rssKiB int }

func (d *process) usage() usage {
	d.t.Helper()
	proc := fmt.Sprintf("/proc/%d", d.cmd.Process.Pid)
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		d.t.Fatal(err)
	}
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		d.t.Fatal(err)
	}
	number := func(key string) int {
		_, rest, _ := strings.Cut(string(status), "\n"+key+":")
		n, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			d.t.Fatal(err)
		}
		return n
	}
	return usage{len(fds), number("Threads"), number("VmRSS")}
}

// One vif stays, and three are plugged in and out. The configuration does not name one of
// these, so that it loses its TAP each time.
func TestHundredHotplugCyclesLeaveNothingBehind(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true, GrantLimit: 8192}, 0, 1, 2, 3)
	m.startBackend()
	d := m.start("--config", m.config("[[vif]]\ndevid = 0\nqueues = 2\n[[vif]]\ndevid = 1\nqueues = 2\n[[vif]]\nmac = '00:16:3e:00:00:02'\nqueues = 2\n[[vif]]\ndevid = '*'\nqueues = 2\nkeep = '0s'\n"))
	d.await("READY=1")
	names := map[int]string{1: "1", 2: "00:16:3e:00:00:02", 3: "*"}
	settled := func() (usage, int, int) {
		for devid, match := range names {
			m.awaitVif("settled", match, connectedAs(devid))
		}
		m.awaitVif("settled", "0", connectedAs(0))
		return d.usage(), len(m.server.GrantsInUse(guest)), len(m.server.PortsInUse(guest))
	}
	cycle := func() {
		for devid := range names {
			m.detach(devid)
		}
		m.awaitVif("gone", "*", func(v control.Vif) bool { return v.DevID == -1 })
		for devid := range names {
			m.attach(devid, byte(devid))
		}
		settled()
	}
	const warmUp, cycles = 10, 100
	for range warmUp {
		cycle()
	}
	before, grants, ports := settled()
	began := time.Now()
	for range cycles {
		cycle()
	}
	took := time.Since(began)
	after, grantsAfter, portsAfter := settled()
	t.Logf("%d cycles in %s: before %+v, %d grants, %d ports; after %+v, %d grants, %d ports",
		cycles, took.Round(time.Millisecond), before, grants, ports, after, grantsAfter, portsAfter)
	if grantsAfter != grants || portsAfter != ports {
		t.Error("grants or event channels are left")
	}
	// The embedded Xen opens the other end of a channel at its first notification: at most one
	// for each port. A leak of one for each cycle would be more.
	if after.fds > before.fds+ports {
		t.Errorf("%d descriptors became %d", before.fds, after.fds)
	}
	if limit := before.rssKiB*3/2 + 8<<10; after.rssKiB > limit {
		t.Errorf("%d KiB of memory became %d KiB, more than %d", before.rssKiB, after.rssKiB, limit)
	}
	if n := m.awaitVif("vif 0", "0", connectedAs(0)).Device.Connects; n != 1 {
		t.Errorf("the vif that stayed was connected %d times", n)
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
	m.wantNothingLeft("xnf0", "xnf1", "xnf2", "xnf3")
}
