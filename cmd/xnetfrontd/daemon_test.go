package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/control"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/netspace"
	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const (
	guest    = xen.DomID(1)
	patience = 20 * time.Second // with the race detector on a busy machine
	stopTime = 2 * time.Second  // that a stop may take
)

// machine is an embedded Xen in this process and a network namespace for daemons.
type machine struct {
	t       *testing.T
	dir     string
	server  *xensim.Server
	domain0 *xensim.Connection
	space   *netspace.Space
}

// newMachine has the given vifs and no backend.
func newMachine(t *testing.T, opts xensim.Options, vifs ...int) *machine {
	t.Helper()
	needRoot(t)
	m := &machine{t: t, dir: t.TempDir()}
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

// startBackend serves the vifs until the function that it returns is called. From
// then on nothing answers, and the backend's nodes stay what they are.
func (m *machine) startBackend() (kill func()) {
	ctx, cancel := context.WithCancel(context.Background())
	backend := netback.New(m.domain0, netback.Options{})
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
	notes  *net.UnixConn // what it tells systemd
	ended  chan struct{}
}

// start starts `run` with args on the machine.
func (m *machine) start(args ...string) *process {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), "notify")
	notes, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { notes.Close() })
	d := &process{t: m.t, cmd: program(m.args("run", args...)...), notes: notes, ended: make(chan struct{})}
	d.cmd.Env = append(d.cmd.Env, "NOTIFY_SOCKET="+path)
	d.cmd.Stderr = &d.errOut
	if err := m.space.Start(d.cmd); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		d.cmd.Wait() // its error is in ProcessState too
		close(d.ended)
	}()
	m.t.Cleanup(func() {
		d.cmd.Process.Kill()
		<-d.ended
	})
	return d
}

func (m *machine) args(command string, args ...string) []string {
	all := append([]string{command, "--xen", m.dir, "--domid", fmt.Sprint(guest)}, args...)
	if command == "run" && !strings.Contains(strings.Join(args, " "), "--control") {
		all = append(all, "--control", m.socket())
	}
	return all
}

func (m *machine) socket() string { return filepath.Join(m.dir, "control.sock") }

// run runs a command on the machine to its end.
func (m *machine) run(command string, args ...string) outcome {
	m.t.Helper()
	var out, errOut bytes.Buffer
	cmd := program(m.args(command, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := m.space.Start(cmd); err != nil {
		m.t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		m.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// hasLink tells whether the namespace has a link of that name.
func (m *machine) hasLink(name string) bool {
	_, err := m.space.Links.LinkByName(name)
	return err == nil
}

// wantNothingLeft checks that no TAP, grant or event channel is left.
func (m *machine) wantNothingLeft(taps ...string) {
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

// await waits until the daemon tells systemd a state.
func (d *process) await(state string) {
	d.t.Helper()
	if err := d.notes.SetReadDeadline(time.Now().Add(patience)); err != nil {
		d.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := d.notes.Read(buf)
		if err != nil {
			d.t.Fatalf("no %s from the daemon: %v; it logged:\n%s", state, err, d.stderr())
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == state {
				return
			}
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

// awaitState waits until the vif is in a state.
func (m *machine) awaitState(devid int, state string) *control.Status {
	m.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		st, err := control.QueryStatus(m.socket(), patience)
		if err != nil {
			m.t.Fatal(err)
		}
		for _, v := range st.Vifs {
			if v.DevID == devid && v.Device != nil && v.Device.State == state {
				return st
			}
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("vif %d is not %s: %+v", devid, state, st.Vifs)
		}
	}
}

func TestReadyComesWhenTheTAPExistsThoughTheBackendIsDead(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	d := m.start("--vif", "0", "--tap", "here0")
	d.await("READY=1")
	if !m.hasLink("here0") {
		t.Error("ready without a TAP")
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestReadyDoesNotComeWithoutATAP(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	d := m.start("--vif", "0", "--tap", "lo")
	<-d.ended
	if err := d.notes.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, err := d.notes.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes for systemd from a daemon that has no TAP", n)
	}
}

func TestStopWithABackendThatNeverWasThereIsCleanAndQuick(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	for i := range 5 {
		d := m.start("--vif", "0")
		d.await("READY=1")
		code, took := d.stop([]unix.Signal{unix.SIGTERM, unix.SIGINT}[i%2])
		if code != 0 || took > stopTime {
			t.Errorf("round %d: exit code %d after %s, want 0 within %s; it logged:\n%s", i, code, took, stopTime, d.stderr())
		}
		d.await("STOPPING=1")
		m.wantNothingLeft("xnf0")
	}
}

func TestStopWithABackendThatDiedWhileConnectedIsCleanAndQuick(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	for i := range 5 {
		kill := m.startBackend()
		d := m.start("--vif", "0", "--queues", "2")
		d.await("READY=1")
		m.awaitState(0, "Connected")
		kill()
		code, took := d.stop(unix.SIGTERM)
		if code != 0 || took > stopTime {
			t.Errorf("round %d: exit code %d after %s, want 0 within %s; it logged:\n%s", i, code, took, stopTime, d.stderr())
		}
		m.wantNothingLeft("xnf0")
	}
}

func TestStopWithAXenstoredThatHangsIsQuick(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "2")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	m.server.DeadStore(true)
	t.Cleanup(func() { m.server.DeadStore(false) })
	if code, took := d.stop(unix.SIGTERM); code != 0 || took > stopTime {
		t.Errorf("exit code %d after %s, want 0 within %s; it logged:\n%s", code, took, stopTime, d.stderr())
	}
	if m.hasLink("xnf0") {
		t.Error("TAP xnf0 is left")
	}
}

func TestStopWithALiveBackendLeavesTheVifToTheNextOwner(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	if code, took := d.stop(unix.SIGTERM); code != 0 || took > stopTime {
		t.Errorf("exit code %d after %s; it logged:\n%s", code, took, d.stderr())
	}
	state, err := m.domain0.Store().Read(t.Context(), xensim.FrontendPath(guest, 0)+"/state")
	if err != nil || state != "1" {
		t.Errorf("the frontend's state is %q, %v; want 1, Initialising, as the toolstack left it", state, err)
	}
	m.wantNothingLeft("xnf0")
	m.start("--vif", "0").await("READY=1")
	m.awaitState(0, "Connected")
}

func TestOneVifThatFailsLeavesTheOthersAlone(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 2)
	m.startBackend()
	file := writeFile(t, filepath.Join(m.dir, "x.toml"), "[[vif]]\ndevid = 0\nqueues = 1\n[[vif]]\ndevid = 1\n[[vif]]\ndevid = 2\ntap = 'lo'\n")
	d := m.start("--config", file)
	d.await("READY=1")
	st := m.awaitState(0, "Connected")
	if p := st.Vifs[1].Problem; p != "no such vif: this domain has 0, 2" || st.Vifs[1].Device != nil {
		t.Errorf("vif 1: %+v", st.Vifs[1])
	}
	if p := st.Vifs[2].Problem; !strings.Contains(p, "taken") {
		t.Errorf("vif 2: %+v", st.Vifs[2])
	}
	o := runProgram(t, program("status", "--control", m.socket()))
	if o.code != 0 || !strings.Contains(o.out, "vif 0 on xnf0: Connected") || !strings.Contains(o.out, "vif 1 on xnf1: NOT SERVED: no such vif") {
		t.Errorf("status: %+v", o)
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
	m.wantNothingLeft("xnf0")
}

func TestSecondSignalEndsAStopThatHangs(t *testing.T) {
	cmd := program()
	cmd.Env = append(cmd.Env, beProgram+"=", beStuck+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, want := range []string{"up", "stopping"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q, %v, want %q", lines.Text(), lines.Err(), want)
		}
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	io.Copy(io.Discard, out) // to its end
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitRuntime {
		t.Errorf("exit code %d, want %d", code, exitRuntime)
	}
}
