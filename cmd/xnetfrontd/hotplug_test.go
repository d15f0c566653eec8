package main

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// attach gives the guest a vif with the address that ends with last.
func (m *testMachine) attach(devid int, last byte) {
	m.t.Helper()
	cfg := xensim.VifConfig{Frontend: guest, DevID: devid, MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, last}}
	if err := xensim.AttachVif(m.t.Context(), m.domain0.Store(), cfg); err != nil {
		m.t.Fatal(err)
	}
}

func (m *testMachine) detach(devid int) {
	m.t.Helper()
	if err := xensim.DetachVif(m.t.Context(), m.domain0.Store(), guest, devid, patience); err != nil {
		m.t.Fatal(err)
	}
}

// awaitVif waits until the vif with this name in the configuration is as wanted.
func (m *testMachine) awaitVif(what, match string, want func(control.Vif) bool) control.Vif {
	m.t.Helper()
	_, v := m.awaitStatus(what+", vif "+match, func(v control.Vif) bool { return v.Match == match && want(v) })
	return v
}

// waitingLine is the line of status about a vif that is not there.
var waitingLine = regexp.MustCompile(`(?m)^vif 00:16:3e:00:00:2a: waiting for the vif for \d+s: this domain has 0 \(00:16:3e:00:00:00\), 3 \(00:16:3e:00:00:03\)$`)

// connectedAs wants the vif connected under a number.
func connectedAs(devid int) func(control.Vif) bool {
	return func(v control.Vif) bool {
		return v.DevID == devid && v.Waiting == "" && v.Device != nil && v.Device.State == "Connected"
	}
}

func isWaiting(v control.Vif) bool { return v.Waiting != "" }

// link returns a link of the daemon's namespace.
func (m *testMachine) link(name string) netlink.Link {
	m.t.Helper()
	l, err := m.space.Links.LinkByName(name)
	if err != nil {
		m.t.Fatalf("link %s: %v", name, err)
	}
	return l
}

func (m *testMachine) config(text string) string {
	return writeFile(m.t, filepath.Join(m.dir, "x.toml"), text)
}

// reload changes the daemon's file, tells the daemon to read it, and waits until it has.
func (m *testMachine) reload(d *process, text string) {
	m.t.Helper()
	m.config(text)
	if err := d.cmd.Process.Signal(unix.SIGHUP); err != nil {
		m.t.Fatal(err)
	}
	d.await("RELOADING=1")
	d.await("READY=1")
}

func TestVifThatIsNotThereIsWaitedForAndServedWhenItComes(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 3)
	m.startBackend()
	file := m.config("[[vif]]\ndevid = 9\n[[vif]]\nmac = '00:16:3e:00:00:2a'\ntap = 'wan'\n")
	d := m.start("--config", file)
	d.await("READY=1")
	d.await("STATUS=vif 9: waiting for it, vif 00:16:3e:00:00:2a: waiting for it")
	if v := m.awaitVif("at the start", "9", isWaiting); v.Waiting != "this domain has 0, 3" || v.Device != nil || v.DevID != 9 {
		t.Errorf("%+v", v)
	}
	o := runProgram(t, program("status", "--control", m.socket(), "00:16:3E:00:00:2A"))
	if o.code != 0 || !waitingLine.MatchString(o.out) {
		t.Errorf("status: %+v", o)
	}
	m.attach(5, 42)
	m.awaitVif("attached", "00:16:3e:00:00:2a", connectedAs(5))
	m.attach(9, 9)
	m.awaitVif("attached", "9", connectedAs(9))
	for _, name := range []string{"wan", "xnf9"} {
		m.link(name)
	}
	for _, name := range []string{"xnf0", "xnf3"} {
		if m.hasLink(name) {
			t.Errorf("%s: a vif is served that is not configured", name)
		}
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 || !strings.Contains(d.stderr(), `"msg":"waiting for the vif","vif":"9","now":"this domain has 0, 3"`) {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
	m.wantNothingLeft("wan", "xnf9")
}

func TestVifThatComesBackHasItsTAPAndAddresses(t *testing.T) {
	for match, tables := range map[string]string{
		"0":                 "devid = 0\ntap = 'wan'",
		"00:16:3e:00:00:00": "mac = '00:16:3e:00:00:00'\ntap = 'wan'",
		"*":                 "devid = '*'\ntap = 'wan%d'",
	} {
		t.Run(match, func(t *testing.T) {
			m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
			m.startBackend()
			d := m.start("--config", m.config("[[vif]]\n"+tables+"\n"))
			d.await("READY=1")
			m.awaitVif("at the start", match, connectedAs(0))
			name := "wan"
			if match == "*" {
				name = "wan0"
			}
			before := m.link(name)
			address := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}}
			if err := m.space.Links.AddrAdd(before, address); err != nil {
				t.Fatal(err)
			}
			devid := 0
			for range 3 {
				m.detach(devid)
				v := m.awaitVif("detached", match, isWaiting)
				if v.Device == nil || !strings.HasPrefix(v.Waiting, "its TAP stays until ") {
					t.Errorf("detached: %+v", v)
				}
				if match != "0" {
					devid++ // as by a toolstack with other vifs
				}
				m.attach(devid, 0)
				m.awaitVif("attached again", match, connectedAs(devid))
			}
			after := m.link(name)
			list, err := m.space.Links.AddrList(after, unix.AF_INET)
			if err != nil || len(list) != 1 || !list[0].Equal(*address) {
				t.Errorf("addresses: %v, %v", list, err)
			}
			if after.Attrs().Index != before.Attrs().Index {
				t.Errorf("ifindex %d became %d", before.Attrs().Index, after.Attrs().Index)
			}
			if code, _ := d.stop(unix.SIGTERM); code != 0 {
				t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
			}
			m.wantNothingLeft(name)
		})
	}
}

func TestTAPOfAVifThatDoesNotComeBackGoesInTime(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackend()
	d := m.start("--config", m.config("[[vif]]\ndevid = '*'\nkeep = '50ms'\n[[vif]]\ndevid = 1\nkeep = '0s'\n"))
	d.await("READY=1")
	m.awaitVif("at the start", "*", connectedAs(0))
	m.awaitVif("at the start", "1", connectedAs(1))
	m.detach(0)
	m.detach(1)
	m.awaitVif("gone", "1", func(v control.Vif) bool {
		return v.Waiting == "this domain has none; attach one with `xl network-attach` in domain 0"
	})
	m.awaitVif("gone", "*", func(v control.Vif) bool { return v.Device == nil && v.DevID == -1 })
	m.wantNothingLeft("xnf0", "xnf1")
	// Another vif under the number of the one that is gone.
	m.attach(0, 77)
	m.awaitVif("another", "*", connectedAs(0))
	if mac := m.link("xnf0").Attrs().HardwareAddr.String(); mac != "00:16:3e:00:00:4d" {
		t.Errorf("address %s", mac)
	}
}

func TestAnotherVifOfTheNumberGetsTheNameOfOneThatIsGone(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "*")
	d.await("READY=1")
	m.awaitVif("at the start", "*", connectedAs(0))
	m.detach(0)
	m.attach(0, 88)
	m.awaitVif("the other vif", "*", func(v control.Vif) bool { return v.MAC == "00:16:3e:00:00:58" && connectedAs(0)(v) })
	if mac := m.link("xnf0").Attrs().HardwareAddr.String(); mac != "00:16:3e:00:00:58" {
		t.Errorf("the TAP has the address %s of a vif that is gone", mac)
	}
}

func TestOneVifThatFailsLeavesTheOthersAlone(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 2)
	m.startBackend()
	d := m.start("--config", m.config("[[vif]]\ndevid = 0\nqueues = 1\n[[vif]]\ndevid = 1\n[[vif]]\ndevid = 2\ntap = 'taken'\n"))
	d.await("READY=1") // and vif 2 is served
	m.awaitVif("at the start", "2", connectedAs(2))
	connects := m.awaitVif("at the start", "0", connectedAs(0)).Device.Connects
	// Another link takes the TAP's name, and then the TAP is removed. In this order the
	// daemon, which makes the TAP again at once, finds the name taken.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "other"
	for _, step := range []func() error{
		func() error { return m.space.Links.LinkSetDown(m.link("taken")) },
		func() error { return m.space.Links.LinkSetName(m.link("taken"), "was") },
		func() error { return m.space.Links.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}) },
		func() error { return m.space.Links.LinkSetName(m.link("other"), "taken") },
		func() error { return m.space.Links.LinkDel(m.link("was")) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	m.awaitVif("taken", "2", func(v control.Vif) bool { return strings.Contains(v.Problem, "name is taken") && v.Device == nil })
	o := runProgram(t, program("status", "--control", m.socket()))
	if o.code != 0 || !strings.Contains(o.out, "vif 0 on xnf0: Connected") || !strings.Contains(o.out, "vif 2 on taken: NOT SERVED for ") || !strings.Contains(o.out, "vif 1: waiting for the vif") {
		t.Errorf("status: %+v", o)
	}
	if err := m.space.Links.LinkDel(m.link("taken")); err != nil {
		t.Fatal(err)
	}
	m.awaitVif("free again", "2", connectedAs(2))
	if v := m.awaitVif("untouched", "0", connectedAs(0)); v.Device.Connects != connects {
		t.Errorf("vif 0 was connected anew: %+v", v.Device)
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
	m.wantNothingLeft("xnf0", "taken")
}

func TestBackendThatBreaksTheProtocolOfOneVifDoesNotReachAnother(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackend()
	d := m.start("--vif", "*")
	d.await("READY=1")
	port := func(devid int) (*netback.Vif, *netback.MemoryPort) {
		v, err := m.backend.Vif(t.Context(), netback.VifID{Frontend: guest, Device: devid})
		if err != nil {
			t.Fatal(err)
		}
		m.awaitVif("at the start", "*", connectedAs(devid))
		if err := v.WaitConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
		return v, v.MemoryPort()
	}
	_, good := port(0)
	hostile, bad := port(1)
	hostile.Faults().Inject(netback.RxExtraEndless, netback.Always)
	frame := make([]byte, 60)
	sent := uint64(0)
	m.awaitVif("hostile", "*", func(v control.Vif) bool {
		_ = bad.Send(0, tap.VirtioHeader{}, frame) // it has no queue while it reconnects
		if good.Send(0, tap.VirtioHeader{}, frame) == nil {
			sent++
		}
		return v.DevID == 1 && v.Device != nil && v.Device.Connects >= 3
	})
	m.awaitVif("the other one", "*", func(v control.Vif) bool {
		return connectedAs(0)(v) && v.Device.Connects == 1 && v.Device.Link.RxPackets >= sent
	})
	if code, _ := d.stop(unix.SIGTERM); code != 0 || !strings.Contains(d.stderr(), `"cause":"violation"`) {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
}

func TestReloadLeavesAloneWhatDoesNotChange(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1, 2)
	m.startBackend()
	d := m.start("--config", m.config("[[vif]]\ndevid = 0\n[[vif]]\ndevid = 1\n"))
	d.await("READY=1")
	m.awaitVif("at the start", "0", connectedAs(0))
	m.awaitVif("at the start", "1", connectedAs(1))
	kept, closed := m.link("xnf0").Attrs().Index, m.link("xnf1").Attrs().Index

	m.reload(d, "[[vif]]\ndevid = 0\nqueus = 1\n")
	m.awaitVif("a wrong file", "1", connectedAs(1))

	// Vif 0 gets another table that says the same. Vif 1 gets one that says something else.
	// Vif 2 is new.
	m.reload(d, "[[vif]]\nmac = '00:16:3e:00:00:00'\n[[vif]]\ndevid = '*'\nqueues = 1\n")
	m.awaitVif("by its address", "00:16:3e:00:00:00", connectedAs(0))
	m.awaitVif("new", "*", connectedAs(2))
	m.awaitVif("changed", "*", connectedAs(1))
	if i := m.link("xnf0").Attrs().Index; i != kept {
		t.Errorf("xnf0 was index %d, is %d: it was made anew without need", kept, i)
	}
	if i := m.link("xnf1").Attrs().Index; i == closed {
		t.Error("xnf1 was not made anew, and has other queues")
	}
	// When it comes back, it gets the new table.
	m.detach(0)
	m.attach(7, 0)
	m.awaitVif("back under another number", "00:16:3e:00:00:00", connectedAs(7))

	m.reload(d, "[[vif]]\ndevid = 2\n")
	m.awaitVif("left over", "2", connectedAs(2))
	if code, _ := d.stop(unix.SIGTERM); code != 0 || !strings.Contains(d.stderr(), "the configuration stays as it was") {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
	m.wantNothingLeft("xnf0", "xnf1", "xnf2")
}

func TestLeaveWithoutAHolderIsAStop(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackend()
	d := m.start("--vif", "*")
	d.await("READY=1")
	for devid := range 2 {
		m.awaitVif("at the start", "*", connectedAs(devid))
	}
	if code, took := d.stop(unix.SIGUSR2); code != 0 || took > 10*stopTime {
		t.Errorf("exit code %d after %s; it logged:\n%s", code, took, d.stderr())
	}
	m.wantNothingLeft("xnf0", "xnf1")
	if _, err := os.Lstat(m.socket()); err == nil {
		t.Error("the control socket is left")
	}
}

func TestWatchdogIsFedWhileEverythingAnswers(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	t.Setenv("WATCHDOG_USEC", "300000")
	d := m.start("--vif", "0")
	d.await("READY=1")
	for range 3 {
		d.await("WATCHDOG=1")
	}
}

func TestRenamedTAPIsFoundByItsPresentAndItsConfiguredName(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--config", m.config("[[vif]]\ndevid = 0\n"))
	d.await("READY=1")
	m.awaitVif("at the start", "0", connectedAs(0))
	// As cloud-init's set-name does.
	if err := m.space.Links.LinkSetName(m.link("xnf0"), "enX0"); err != nil {
		t.Fatal(err)
	}
	m.awaitVif("renamed", "0", func(v control.Vif) bool { return v.TAP == "enX0" && v.Renamed == "xnf0" })
	for _, command := range []string{"status", "dump", "kick"} {
		for _, name := range []string{"0", "enX0", "xnf0"} {
			o := runProgram(t, program(command, "--control", m.socket(), name))
			if o.code != 0 || command != "kick" && !strings.Contains(o.out, "vif 0 on enX0: Connected") {
				t.Errorf("%s %s: %+v", command, name, o)
			}
		}
	}
	if o := runProgram(t, program("status", "--control", m.socket())); !strings.Contains(o.out, "name      xnf0 in the configuration") {
		t.Errorf("status: %+v", o)
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
	m.wantNothingLeft("xnf0", "enX0")
}

func TestVifThatIsAttachedAnewWithAnotherAddressIsCalledByIt(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--config", m.config("[[vif]]\ndevid = 0\n"))
	d.await("READY=1")
	m.awaitVif("at the start", "0", connectedAs(0))
	index := m.link("xnf0").Attrs().Index
	m.detach(0)
	m.attach(0, 42)
	const mac = "00:16:3e:00:00:2a"
	m.awaitVif("with another address", "0", func(v control.Vif) bool { return connectedAs(0)(v) && v.MAC == mac && v.Device.MAC == mac })
	if a := m.link("xnf0").Attrs(); a.Index != index || a.HardwareAddr.String() != mac {
		t.Errorf("index %d became %d, address %s", index, a.Index, a.HardwareAddr)
	}
	if o := runProgram(t, program("status", "--control", m.socket(), mac)); o.code != 0 {
		t.Errorf("status: %+v", o)
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
}
