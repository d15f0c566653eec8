package main

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/release"
	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

func TestVifThatAStopShallLeaveGoesOnWithTheNextStart(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackendLike(netback.Options{RemoveOnClose: true})
	socket := m.startHolder()
	file := m.config("[[vif]]\ndevid = 0\nstop = 'leave'\n[[vif]]\ndevid = 1\nstop = 'close'\n")
	start := func() *process {
		d := m.start("--config", file, "--holder", socket)
		d.await("READY=1")
		m.awaitState(0, "Connected")
		return d
	}
	d := start()
	m.awaitState(1, "Connected")
	index := m.link("xnf0").Attrs().Index
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Fatalf("exit code %d; it logged:\n%s", code, d.stderr())
	}
	if keys := strings.Join(m.held(socket), " "); keys != "tap/xnf0/connection tap/xnf0/events tap/xnf0/tap" {
		t.Errorf("the holder has %s", keys)
	}
	if m.hasLink("xnf1") || !m.hasLink("xnf0") {
		t.Error("it left the wrong TAP")
	}

	d = start()
	if n := m.link("xnf0").Attrs().Index; n != index {
		t.Errorf("the TAP is another: %d, was %d", n, index)
	}
	m.reload(d, "[[vif]]\ndevid = 0\nstop = 'close'\n")
	if n := m.link("xnf0").Attrs().Index; n != index {
		t.Error("the reload made a new TAP")
	}
	d.stop(unix.SIGTERM)
	if n := strings.Count(d.stderr(), "taken over from the last process"); n != 1 {
		t.Errorf("%d vifs were taken over:\n%s", n, d.stderr())
	}
	m.wantNothingLeft("xnf0")
	if keys := m.held(socket); len(keys) != 0 {
		t.Errorf("left with the holder: %v", keys)
	}
}

func TestStopLeavesAVifWhoseBackendWouldRemoveItAndClosesAnother(t *testing.T) {
	for name, c := range map[string]struct {
		like netback.Options
		left bool
	}{
		"like Mirage's": {netback.Options{RemoveOnClose: true}, true},
		"like Linux's":  {netback.Options{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
			m.startBackendLike(c.like)
			socket := m.startHolder()
			start := func() *process {
				d := m.start("--config", m.config("[[vif]]\ndevid = 0\n"), "--holder", socket)
				d.await("READY=1")
				m.awaitState(0, "Connected")
				return d
			}
			const said = "leaving the vif to the next process: its backend would remove a closed vif"
			for range 2 { // the second daemon may have taken over
				d := start()
				if code, _ := d.stop(unix.SIGTERM); code != 0 {
					t.Fatalf("exit code %d; it logged:\n%s", code, d.stderr())
				}
				if got := strings.Contains(d.stderr(), said); got != c.left {
					t.Errorf("it says that it leaves the vif: %t, want %t:\n%s", got, c.left, d.stderr())
				}
				if got := m.hasLink("xnf0") && len(m.held(socket)) == 3; got != c.left {
					t.Errorf("left: %t, want %t; the holder has %v", got, c.left, m.held(socket))
				}
			}
		})
	}
}

func TestReleaseOfAVifWhoseBackendRemovesItSaysAtOnceWhatRemains(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	before := m.nodes()
	m.startBackendLike(netback.Options{RemoveOnClose: true})
	socket := m.startHolder()
	d := m.start("--vif", "0", "--holder", socket)
	d.await("READY=1")
	m.awaitState(0, "Connected")
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for _, when := range []string{"left by the stop", "gone already"} {
		began := time.Now()
		wantError(t, m.run("release", "--vif", "0", "--holder", socket), failure.ExitRuntime,
			"vif 0: the backend is gone: there is no /local/domain/0/backend/vif/1/0 in domain 0; nothing of a daemon's is left,"+
				" and the toolstack has to attach the vif anew (xl network-detach, xl network-attach)")
		if took := time.Since(began); took > release.DefaultLimit/2 {
			t.Errorf("%s: it took %v", when, took)
		}
		m.wantFree(before)
		if keys := m.held(socket); len(keys) != 0 {
			t.Errorf("%s: left with the holder: %v", when, keys)
		}
	}
	m.detach(0)
	m.attach(0, 0)
	d = m.start("--vif", "0", "--holder", socket)
	d.await("READY=1")
	m.awaitState(0, "Connected")
}

func TestVifThatAStopShallLeaveIsClosedWithoutAHolder(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	m.startBackend()
	d := m.start("--config", m.config("[[vif]]\ndevid = 0\nstop = 'leave'\n"), "--holder", "none")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if said := "closing a vif instead of leaving it to the next process: the holder does not have it"; !strings.Contains(d.stderr(), said) {
		t.Errorf("it logged:\n%s", d.stderr())
	}
	m.wantNothingLeft("xnf0")
}
