package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

func TestVifThatAStopShallLeaveGoesOnWithTheNextStart(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackendLike(netback.Options{RemoveOnClose: true})
	socket := m.startHolder()
	file := m.config("[[vif]]\ndevid = 0\nstop = 'leave'\n[[vif]]\ndevid = 1\n")
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
	m.reload(d, "[[vif]]\ndevid = 0\n")
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
