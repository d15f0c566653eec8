package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// spoil gives a vif a backend that makes no sense, and returns the problem.
func (m *testMachine) spoil(devid string) (problem string) {
	m.t.Helper()
	front := xensim.HomePath(guest) + "/device/vif/" + devid
	if err := m.domain0.Store().Write(m.t.Context(), front+"/backend-id", "none"); err != nil {
		m.t.Fatal(err)
	}
	return "no usable backend: device/vif/" + devid + `/backend-id is "none", want a domain's number`
}

func TestVifThatMakesNoSenseKeepsNoOtherFromBeingServed(t *testing.T) {
	m := newMachine(t, xensim.Options{GrantLimit: 100, AllowRaise: true}, 0, 1, 2)
	problem := m.spoil("1")
	m.startBackend()
	o := m.run("prepare", "--config", m.config("[[vif]]\ndevid = '*'\nqueues = 1\n"))
	if o.code != failure.ExitRuntime || o.out != "limit of granted pages: raised from 100 to 2056, 1542 are needed\n" || o.errOut != "xnetfrontd: vif 1: "+problem+"\n" {
		t.Errorf("prepare: %+v", o)
	}
	d := m.start("--vif", "*")
	d.await("READY=1")
	for _, devid := range []int{0, 2} {
		m.awaitVif("beside a bad one", "*", connectedAs(devid))
	}
	_, v := m.awaitStatus("the bad one", func(v control.Vif) bool { return v.DevID == 1 && v.Problem != "" })
	if v.Problem != problem {
		t.Errorf("its problem is %q, want %q", v.Problem, problem)
	}
	// The vif is served when the toolstack has mended it.
	if err := m.domain0.Store().Write(t.Context(), xensim.HomePath(guest)+"/device/vif/1/backend-id", "0"); err != nil {
		t.Fatal(err)
	}
	m.awaitVif("mended", "*", connectedAs(1))
	if code, _ := d.stop(unix.SIGTERM); code != 0 || strings.Count(d.stderr(), `"msg":"not served"`) != 1 {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
	m.wantNothingLeft("xnf0", "xnf1", "xnf2")
}

func TestStartThatCanServeNoVifSaysOfEachWhyNot(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	want := "xnetfrontd: vif 0: " + m.spoil("0") + "\nxnetfrontd: vif 1: " + m.spoil("1") + "\n"
	for _, command := range []string{"run", "check", "prepare"} {
		o := m.run(command, "--vif", "*")
		if o.code != failure.ExitRuntime || o.errOut != want {
			t.Errorf("%s: exit code %d, %swant:\n%s", command, o.code, o.errOut, want)
		}
	}
}
