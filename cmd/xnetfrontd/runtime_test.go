package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

func TestWhatCannotBeServedIsOneLineAndChangesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		opts xensim.Options
		vifs []int
		args []string
		line string
	}{
		{"TAP name taken", xensim.Options{}, []int{0}, []string{"--vif", "0", "--tap", "lo"},
			"vif 0: TAP \"lo\": name is taken by another link: choose another `tap`, or remove that link with `ip link del lo`"},
		{"grant limit too small", xensim.Options{GrantLimit: 40}, []int{0}, []string{"--vif", "0"},
			"vif 0: too few pages can be granted: the limit is 40, one queue pair needs 514 with full rings and 74 at least; raise /sys/module/xen_gntalloc/parameters/limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, c.opts, c.vifs...)
			if c.opts.GrantLimit > 0 {
				m.startBackend()
				m.awaitBackend(0, "2")
			}
			before := m.links()
			wantError(t, m.run("run", c.args...), failure.ExitRuntime, c.line)
			if after := m.links(); after != before {
				t.Errorf("links before: %s, after: %s", before, after)
			}
			m.wantNothingLeft()
			if _, err := os.Lstat(m.socket()); err == nil {
				t.Error("the control socket is left")
			}
		})
	}
}

// links lists the namespace's links.
func (m *testMachine) links() string {
	m.t.Helper()
	links, err := m.space.Links.LinkList()
	if err != nil {
		m.t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

func TestCheckOfAVifWhoseBackendIsDownIsNoProblem(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	o := m.run("check", "--vif", "0")
	if o.code != 0 || o.errOut != "" || !strings.Contains(o.out, "nothing is offered yet; run waits for the backend") {
		t.Errorf("%+v", o)
	}
}

func TestEmbeddedXenThatIsNotThereIsNamed(t *testing.T) {
	dir := t.TempDir()
	o := runProgram(t, program("run", "--xen", dir, "--vif", "0"))
	if o.code != failure.ExitRuntime || !strings.HasPrefix(o.errOut, "xnetfrontd: embedded Xen in "+dir+": ") || strings.Count(o.errOut, "\n") != 1 {
		t.Errorf("%+v", o)
	}
}

func TestSecondDaemonForAVifIsToldWhoServesIt(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	first := m.start("--vif", "0")
	first.await("READY=1")
	pid := first.cmd.Process.Pid
	lock := filepath.Join(m.dir, "locks-1", "vif-0.lock")
	who := fmt.Sprintf("pid %d (/proc/self/exe run --xen %s ", pid, m.dir)
	for _, vif := range []string{"0", "00:16:3e:00:00:00", "*"} {
		o := m.run("run", "--vif", vif, "--tap", "other%d", "--control", m.dir+"/other.sock")
		if o.code != failure.ExitRuntime || !strings.HasPrefix(o.errOut, "xnetfrontd: vif 0: another xnetfrontd serves it: "+who) ||
			!strings.Contains(o.errOut, "), since "+time.Now().Format("2006-")) ||
			!strings.HasSuffix(o.errOut, "; stop that one first (lock "+lock+")\n") || strings.Count(o.errOut, "\n") != 1 {
			t.Errorf("%s: %+v", vif, o)
		}
	}
	o := m.run("check", "--vif", "0")
	if o.code != failure.ExitRuntime || !strings.HasPrefix(o.errOut, "xnetfrontd: vif 0: another xnetfrontd serves it: "+who) || !strings.HasSuffix(o.errOut, "; see xnetfrontd status\n") {
		t.Errorf("%+v", o)
	}
	// The lock ends with the process, however that ends.
	first.stderr()
	second := m.start("--vif", "0", "--tap", "other")
	second.await("READY=1")
}

func TestSecondDaemonOnAControlSocketIsToldWhoListens(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0, 1)
	first := m.start("--vif", "0")
	first.await("READY=1")
	o := m.run("run", "--vif", "1")
	wantError(t, o, failure.ExitRuntime, fmt.Sprintf("control socket %s: pid %d listens on it already; stop that one, or choose another path with --control", m.socket(), first.cmd.Process.Pid))
	if m.hasLink("xnf1") {
		t.Error("the TAP of the second daemon is left")
	}
}

func TestCheckTellsWhatRunWouldDoAndTouchesNothing(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	m.startBackend()
	m.awaitBackend(0, "2")
	o := m.run("check", "--vif", "0", "--queues", "4", "--disable", "gso_tcpv6")
	want := `vif 0 on xnf0
  link      address 00:16:3e:00:00:00, MTU 1500
  state     Initialising; the backend /local/domain/0/backend/vif/1/0 in domain 0 is InitWait
  features  sg csum csum_ipv6 gso_tcpv4 split_channels
  without   gso_tcpv6: switched off in the configuration
  without   queues: 4 asked for, the backend offers 2
  queues    2; the backend offers 2
  grants    1028 pages for 2 queues with full rings, limit 1024 for the whole guest
            not enough: run raises the limit if it may, else it makes do with 514 pages (queues: 1, buffers each way: 256)
`
	if o.code != 0 || o.out != want || o.errOut != "" {
		t.Errorf("exit code %d, stderr %q, stdout:\n%swant:\n%s", o.code, o.errOut, o.out, want)
	}
	m.wantNothingLeft("xnf0")
	if left, err := filepath.Glob(m.dir + "/locks*"); err != nil || len(left) > 0 {
		t.Errorf("check left %v, %v", left, err)
	}
	state, err := m.domain0.Store().Read(t.Context(), xensim.FrontendPath(guest, 0)+"/state")
	if err != nil || state != "1" {
		t.Errorf("the frontend's state is %q, %v; want 1 as the toolstack left it", state, err)
	}
}

// awaitBackend waits until the backend has written a state.
func (m *testMachine) awaitBackend(devid int, state string) {
	m.t.Helper()
	path := xensim.BackendPath(0, guest, devid) + "/state"
	w, err := m.domain0.Store().Watch(m.t.Context(), path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer w.Close()
	for range w.Events() {
		if s, err := m.domain0.Store().Read(m.t.Context(), path); err == nil && s == state {
			return
		}
	}
	m.t.Fatalf("watch of %s: %v", path, w.Err())
}

func TestUserWithoutPermissionIsToldWhatIsMissing(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	cmd := asNobody(t, m.args("run", "--vif", "0")...)
	for _, path := range []string{m.dir, filepath.Dir(m.dir)} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	sockets, err := filepath.Glob(m.dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		if err := os.Chmod(s, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	o := runProgram(t, cmd)
	if o.code != failure.ExitRuntime || strings.Count(o.errOut, "\n") != 1 || !strings.Contains(o.errOut, "run as root") {
		t.Errorf("%+v", o)
	}
}

// asNobody is the program, run by a plain user from a copy that the user may execute.
func asNobody(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	needs.Root(t)
	if ids, err := os.ReadFile("/proc/self/uid_map"); err != nil || !strings.Contains(string(ids), "4294967295") {
		needs.LeaveOut(t, "more users than its user namespace has")
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "xnetfrontd")
	if err := os.WriteFile(copied, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := program(args...)
	cmd.Path, cmd.Dir = copied, dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	return cmd
}
