package main

import (
	"bufio"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

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
	if n := len(d.notes); n > 0 {
		t.Errorf("%d lines for systemd from a daemon that has no TAP", n)
	}
}

func TestStopWithABackendThatNeverWasThereIsCleanAndQuick(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	for i := range 5 {
		d := m.start("--vif", "0")
		d.await("READY=1")
		code, took := d.stop([]unix.Signal{unix.SIGTERM, unix.SIGINT}[i%2])
		if code != 0 || took > 10*stopTime {
			t.Errorf("round %d: exit code %d after %s, want 0, normally within %s; it logged:\n%s", i, code, took, stopTime, d.stderr())
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
		if code != 0 || took > 10*stopTime {
			t.Errorf("round %d: exit code %d after %s, want 0, normally within %s; it logged:\n%s", i, code, took, stopTime, d.stderr())
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
	if code, took := d.stop(unix.SIGTERM); code != 0 || took > 10*stopTime {
		t.Errorf("exit code %d after %s, want 0, normally within %s; it logged:\n%s", code, took, stopTime, d.stderr())
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
	if code, took := d.stop(unix.SIGTERM); code != 0 || took > 10*stopTime {
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
	if code := cmd.ProcessState.ExitCode(); code != failure.ExitRuntime {
		t.Errorf("exit code %d, want %d", code, failure.ExitRuntime)
	}
}
