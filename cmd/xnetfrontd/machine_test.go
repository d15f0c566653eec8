package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/netspace"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const (
	guest    = xen.DomID(1)
	patience = 20 * time.Second // with the race detector on a busy machine
	stopTime = 2 * time.Second  // the longest stop, normally
)

// testMachine is an embedded Xen in this process and a network namespace for daemons.
type testMachine struct {
	t       *testing.T
	dir     string
	server  *xensim.Server
	domain0 *xensim.Connection
	space   *netspace.Space
	backend *netback.Backend // the one that was started last
}

// newMachine has the given vifs and no backend.
func newMachine(t *testing.T, opts xensim.Options, vifs ...int) *testMachine {
	t.Helper()
	needs.Root(t)
	m := &testMachine{t: t, dir: t.TempDir()}
	opts.Dir = m.dir
	var err error
	if m.server, err = xensim.New(opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.server.Close() })
	if err := m.server.Listen(); err != nil {
		t.Fatal(err)
	}
	if m.domain0, err = m.server.Connect(0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.domain0.Close() })
	for _, id := range vifs {
		cfg := xensim.VifConfig{Frontend: guest, DevID: id, MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, byte(id)}}
		if err := xensim.AttachVif(t.Context(), m.domain0.Store(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	if m.space, err = netspace.New(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.space.Close)
	return m
}

// startBackend serves the vifs until the function that it returns is called. After that
// nothing answers, and the backend's nodes stay as they are.
func (m *testMachine) startBackend() (kill func()) { return m.startBackendLike(netback.Options{}) }

// startBackendLike is startBackend with these options.
func (m *testMachine) startBackendLike(o netback.Options) (kill func()) {
	ctx, cancel := context.WithCancel(context.Background())
	backend := netback.New(m.domain0, o)
	m.backend = backend
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := backend.Serve(ctx); err != nil {
			m.t.Errorf("backend: %v", err)
		}
	}()
	kill = func() {
		cancel()
		<-served
	}
	m.t.Cleanup(kill)
	return kill
}

// process is a running xnetfrontd.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	errOut bytes.Buffer
	notes  chan string // its notifications to systemd; closed when the test ends
	ended  chan struct{}
}

// start starts `run` with args on the machine.
func (m *testMachine) start(args ...string) *process {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "notify")
	notes, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		m.t.Fatal(err)
	}
	d := &process{t: m.t, cmd: program(m.args("run", args...)...), notes: make(chan string, 1<<16), ended: make(chan struct{})}
	m.t.Cleanup(func() {
		notes.Close()
		for range d.notes {
		}
	})
	go d.listen(notes)
	d.cmd.Env = append(d.cmd.Env, "NOTIFY_SOCKET="+path)
	d.cmd.Stderr = &d.errOut
	if err := m.space.Start(d.cmd); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		d.cmd.Wait() // ProcessState has its error, too
		close(d.ended)
	}()
	m.t.Cleanup(func() {
		d.cmd.Process.Kill()
		<-d.ended
		if m.t.Failed() {
			m.t.Logf("the daemon logged:\n%s", d.errOut.String())
		}
	})
	return d
}

func (m *testMachine) args(command string, args ...string) []string {
	all := append([]string{command, "--xen", m.dir, "--domid", fmt.Sprint(guest)}, args...)
	if command == "run" && !strings.Contains(strings.Join(args, " "), "--control") {
		all = append(all, "--control", m.socket())
	}
	return all
}

func (m *testMachine) socket() string { return filepath.Join(m.dir, "control.sock") }

// run runs a command on the machine to its end.
func (m *testMachine) run(command string, args ...string) outcome {
	m.t.Helper()
	var out, errOut bytes.Buffer
	cmd := program(m.args(command, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := m.space.Start(cmd); err != nil {
		m.t.Fatal(err)
	}
	hang := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer hang.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// hasLink tells whether the namespace has a link of that name.
func (m *testMachine) hasLink(name string) bool {
	_, err := m.space.Links.LinkByName(name)
	return err == nil
}

// wantNothingLeft checks that no TAP, grant or event channel is left.
func (m *testMachine) wantNothingLeft(taps ...string) {
	m.t.Helper()
	for _, name := range taps {
		if m.hasLink(name) {
			m.t.Errorf("TAP %s is left", name)
		}
	}
	if g := m.server.GrantsInUse(guest); len(g) > 0 {
		m.t.Errorf("%d grants are left, the first is %+v", len(g), g[0])
	}
	if p := m.server.PortsInUse(guest); len(p) > 0 {
		m.t.Errorf("event channels are left: %+v", p)
	}
}

// listen reads at once, as systemd does, so that a notification does not hold the daemon up.
func (d *process) listen(notes *net.UnixConn) {
	defer close(d.notes)
	buf := make([]byte, 4096)
	for {
		n, err := notes.Read(buf)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(buf[:n])) {
			d.notes <- strings.TrimSpace(line)
		}
	}
}

// await waits until the daemon notifies systemd of a state.
func (d *process) await(state string) {
	d.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case note := <-d.notes:
			if note == state {
				return
			}
		case <-limit:
			d.t.Fatalf("no %s from the daemon; it logged:\n%s", state, d.stderr())
		}
	}
}

// stderr ends the daemon and returns what it logged.
func (d *process) stderr() string {
	d.cmd.Process.Kill()
	<-d.ended
	return d.errOut.String()
}

// stop sends a signal and returns how the daemon ended, and how long it took.
func (d *process) stop(sig unix.Signal) (code int, took time.Duration) {
	d.t.Helper()
	began := time.Now()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.t.Fatalf("not ended %s after %v; it logged:\n%s", patience, sig, d.stderr())
	}
	return d.cmd.ProcessState.ExitCode(), time.Since(began)
}

// awaitStatus waits until the daemon's status has a vif that is as wanted.
func (m *testMachine) awaitStatus(what string, want func(control.Vif) bool) (*control.Status, control.Vif) {
	m.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		st, err := (&control.Client{Path: m.socket(), Timeout: patience}).Status(m.t.Context())
		if err != nil {
			m.t.Fatal(err)
		}
		if i := slices.IndexFunc(st.Vifs, want); i >= 0 {
			return st, st.Vifs[i]
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: no vif is so: %+v", what, st.Vifs)
		}
	}
}

// awaitState waits until the vif is in a state.
func (m *testMachine) awaitState(devid int, state string) *control.Status {
	m.t.Helper()
	st, _ := m.awaitStatus(fmt.Sprintf("vif %d %s", devid, state), func(v control.Vif) bool {
		return v.DevID == devid && v.Device != nil && v.Device.State == state
	})
	return st
}
