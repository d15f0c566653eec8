package main

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/internal/hold"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

// startHolder runs a holder until the test ends, and returns its socket.
func (m *testMachine) startHolder() string {
	m.t.Helper()
	socket := filepath.Join(m.t.TempDir(), "hold.sock")
	cmd := program("hold", "--socket", socket)
	if err := m.space.Start(cmd); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	await.That(m.t, "the holder", func() bool {
		c, err := hold.Dial(m.t.Context(), socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return socket
}

// held lists the keys with the holder.
func (m *testMachine) held(socket string) []string {
	m.t.Helper()
	c, err := hold.Dial(m.t.Context(), socket)
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	entries, err := c.List(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	var keys []string
	for _, e := range entries {
		keys = append(keys, e.Key)
	}
	return keys
}

func TestNextDaemonMakesNewConnections(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackend()
	socket := m.startHolder()
	start := func() *process {
		d := m.start("--vif", "*", "--holder", socket)
		d.await("READY=1")
		for devid := range 2 {
			m.awaitState(devid, "Connected")
		}
		return d
	}
	d := start()
	index := m.link("xnf1").Attrs().Index
	grants, ports := len(m.server.GrantsInUse(guest)), len(m.server.PortsInUse(guest))
	for _, sig := range []unix.Signal{unix.SIGUSR2, unix.SIGKILL, unix.SIGUSR2} {
		if code, _ := d.stop(sig); sig == unix.SIGUSR2 && code != 0 {
			t.Fatalf("exit code %d; it logged:\n%s", code, d.stderr())
		}
		if o := m.plain("adopt-check", "--socket", socket); o.code != 0 || o.out != "tap/xnf0: can be taken over\ntap/xnf1: can be taken over\n" {
			t.Errorf("adopt-check: %+v", o)
		}
		d = start()
		if n := m.link("xnf1").Attrs().Index; n != index {
			t.Errorf("after %v the TAP is another: %d, was %d", sig, n, index)
		}
		if g, p := len(m.server.GrantsInUse(guest)), len(m.server.PortsInUse(guest)); g != grants || p != ports {
			t.Errorf("after %v %d grants and %d ports, were %d and %d", sig, g, p, grants, ports)
		}
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n := strings.Count(d.stderr(), "taken over from the last process"); n != 2 {
		t.Errorf("%d of 2 vifs were taken over:\n%s", n, d.stderr())
	}
	m.wantNothingLeft("xnf0", "xnf1")
	if keys := m.held(socket); len(keys) != 0 {
		t.Errorf("left with the holder: %v", keys)
	}
}

func TestReleaseLeavesWhatTheHolderHas(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackend()
	socket := m.startHolder()
	d := m.start("--vif", "*", "--holder", socket)
	d.await("READY=1")
	for devid := range 2 {
		m.awaitState(devid, "Connected")
	}
	d.stop(unix.SIGUSR2)
	if o := m.run("release", "--vif", "0", "--holder", socket); o.code != 0 {
		t.Fatalf("%+v", o)
	}
	if keys := strings.Join(m.held(socket), " "); keys != "tap/xnf1/connection tap/xnf1/events tap/xnf1/tap" {
		t.Errorf("the holder has %s", keys)
	}
	await.That(m.t, "the TAP to go", func() bool { return !m.hasLink("xnf0") && m.hasLink("xnf1") })
	if o := m.run("release", "--vif", "1", "--holder", socket); o.code != 0 {
		t.Fatalf("%+v", o)
	}
	await.That(m.t, "everything to go", func() bool { return len(m.server.GrantsInUse(guest)) == 0 })
	m.wantNothingLeft("xnf1")
}

func TestVifThatIsNotConfiguredAnyMoreStaysWithTheHolder(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackend()
	socket := m.startHolder()
	d := m.start("--vif", "*", "--tap", "old%d", "--holder", socket)
	d.await("READY=1")
	for devid := range 2 {
		m.awaitState(devid, "Connected")
	}
	d.stop(unix.SIGUSR2)
	d = m.start("--vif", "1", "--tap", "new1", "--holder", socket)
	d.await("READY=1")
	m.awaitState(1, "Connected")
	if m.hasLink("old0") || m.hasLink("old1") {
		t.Error("a TAP is left")
	}
	d.stop(unix.SIGTERM)
	if keys := m.held(socket); len(keys) != 0 {
		t.Errorf("left with the holder: %v", keys)
	}
	m.wantNothingLeft("new1")
}

// plain runs a command without --xen.
func (m *testMachine) plain(args ...string) outcome {
	var out, errOut strings.Builder
	code := execute(args, streams{out: &out, err: &errOut})
	return outcome{code, out.String(), errOut.String()}
}
