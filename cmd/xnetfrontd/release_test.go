package main

import (
	"bytes"
	"errors"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/fakekernel"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/release"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

// frontendNode reads a node of the guest's vif 0.
func (m *testMachine) frontendNode(key string) string {
	m.t.Helper()
	v, err := m.domain0.Store().Read(m.t.Context(), path.Join(xensim.FrontendPath(guest, 0), key))
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

// wantFree checks that vif 0 is as the toolstack made it.
func (m *testMachine) wantFree(before []string) {
	m.t.Helper()
	if st := m.frontendNode("state"); st != "1" {
		m.t.Errorf("the frontend's state is %s, want 1, Initialising", st)
	}
	if after := m.nodes(); !slices.Equal(after, before) {
		m.t.Errorf("nodes: %v, want %v", after, before)
	}
}

func (m *testMachine) nodes() []string {
	m.t.Helper()
	names, err := m.domain0.Store().Directory(m.t.Context(), xensim.FrontendPath(guest, 0))
	if err != nil {
		m.t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

func TestVifOfAKilledDaemonIsReleased(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	before := m.nodes()
	m.startBackend()
	for range 2 {
		d := m.start("--vif", "0")
		d.await("READY=1")
		m.awaitState(0, "Connected")
		d.stop(unix.SIGKILL)
		if st := m.frontendNode("state"); st != "4" {
			t.Fatalf("the frontend's state is %s after SIGKILL, want 4", st)
		}
		o := m.run("release", "--vif", "0")
		if want := "vif 0: free, its backend waits for a frontend\n"; o.code != 0 || o.out != want || o.errOut != "" {
			t.Errorf("%+v, want %s", o, want)
		}
		m.wantFree(before)
	}
}

func TestVifThatIsServedIsNotReleased(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	o := m.run("release", "--vif", "0")
	if o.code != failure.ExitRuntime || !strings.HasPrefix(o.errOut, "xnetfrontd: vif 0: a daemon serves it, ") ||
		!strings.HasSuffix(o.errOut, ": stop that first (systemctl stop xnetfrontd), or take the vif out of its configuration and restart it\n") {
		t.Errorf("%+v", o)
	}
	if st := m.frontendNode("state"); st != "4" {
		t.Errorf("the frontend's state is %s, want 4, as it was", st)
	}
}

func TestVifThatIsNotThereIsNotReleased(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0, 2)
	wantError(t, m.run("release", "--vif", "1"), failure.ExitRuntime, "vif 1: no such vif: this domain has 0, 2")
	wantError(t, m.run("release", "--vif", "70000"), failure.ExitUsage, "--vif 70000: expected a whole number from 0 to 65535")
	wantError(t, m.run("release"), failure.ExitUsage, "missing flags: --vif=N; see xnetfrontd --help")
}

// releaser is a Releaser in this process, on a fake kernel.
func (m *testMachine) releaser(k *fakekernel.Kernel, out *bytes.Buffer) *release.Releaser {
	m.t.Helper()
	conn, err := m.server.Connect(guest)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return &release.Releaser{LockDir: m.t.TempDir(), Limit: patience, Store: conn.Store(), Kernel: k.Owner(), Out: out}
}

// serveAsKernel puts a daemon in the place of the kernel's driver. The backend sees no
// difference.
func (m *testMachine) serveAsKernel(k *fakekernel.Kernel, started **process) {
	k.Bound = func(int) error {
		if st := m.frontendNode("state"); st != "1" {
			m.t.Errorf("bound in state %s: the kernel waits for ever", st)
		}
		*started = m.start("--vif", "0")
		return nil
	}
}

func TestReleasedVifIsTheKernelsAndConnected(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	k := fakekernel.New(t, false, 0)
	var kernel *process
	m.serveAsKernel(k, &kernel)
	var out bytes.Buffer
	r := m.releaser(k, &out)
	if err := r.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := m.frontendNode("state"); st != "4" {
		t.Errorf("the frontend's state is %s, want 4", st)
	}
	want := "vif 0: free, its backend waits for a frontend\nmodule xen-netfront: loaded\nvif 0: the kernel's xen-netfront has it, connected, as eth0\n"
	if out.String() != want {
		t.Errorf("printed:\n%swant:\n%s", out.String(), want)
	}
	k.WantWritten("drivers_autoprobe=0", "drivers_autoprobe=1", "drivers_autoprobe=0", "modprobe=xen-netfront", "drivers_autoprobe=1", "bind=vif-0")

	out.Reset()
	if err := r.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if want := "vif 0: the kernel's xen-netfront has it already, connected, as eth0\n"; out.String() != want {
		t.Errorf("the second time it printed:\n%swant:\n%s", out.String(), want)
	}
}

func TestVifWhoseBackendIsDeadIsNotBound(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	before := m.nodes()
	kill := m.startBackend()
	d := m.start("--vif", "0")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	kill()
	d.stop(unix.SIGKILL)
	k := fakekernel.New(t, true)
	var out bytes.Buffer
	r := m.releaser(k, &out)
	r.Limit = 200 * time.Millisecond
	cmdtest.WantError(t, r.Release(t.Context()), "the backend does not answer: /local/domain/0/backend/vif/1/0 in domain 0 stays Connected and does not get to InitWait;"+
		" it is not given to the kernel, which would wait for that without an end; run this again when the backend is back")
	k.WantWritten()
	m.wantFree(before)
}

func TestKernelThatDoesNotConnectIsReportedWithBothStates(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	m.startBackend()
	k := fakekernel.New(t, true, 0)
	var out bytes.Buffer
	r := m.releaser(k, &out)
	r.Limit = 200 * time.Millisecond
	if err := m.domain0.Store().Write(t.Context(), xensim.HomePath(guest)+"/error/device/vif/0/error", "22 allocating event channel"); err != nil {
		t.Fatal(err)
	}
	cmdtest.WantError(t, r.Release(t.Context()), "the kernel's xen-netfront has it, but is not connected: the backend did not answer in time:"+
		` the frontend is Initialising, the backend /local/domain/0/backend/vif/1/0 in domain 0 is InitWait; the frontend says "22 allocating event channel"`)
}

func TestKernelThatRefusesAVifIsReported(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	m.startBackend()
	k := fakekernel.New(t, true)
	k.Must(os.Mkdir(k.Device(0), 0o755))
	k.Bound = func(int) error { return errors.New("no such device") }
	var out bytes.Buffer
	cmdtest.WantError(t, m.releaser(k, &out).Release(t.Context()), "the kernel's xen-netfront does not take it; see dmesg\nno such device")
}

func TestReleaseLetsTheKernelTakeAVifWhenItIsReadyForThat(t *testing.T) {
	m := newMachine(t, xensim.Options{}, 0)
	conn, err := m.server.Connect(guest)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	k := fakekernel.NewWatching(t, true, guest, conn.Store(), m.domain0.Store(), 0)
	m.startBackend()
	k.Must(k.WriteAttribute(t.Context(), k.Driver()+"/unbind", "vif-0"))
	k.Wrote = nil
	var kernel *process
	m.serveAsKernel(k.Kernel, &kernel)
	var out bytes.Buffer
	r := m.releaser(k.Kernel, &out)
	r.Store = k
	k.Must(r.Release(t.Context()))
	k.WantWritten("drivers_autoprobe=0", "drivers_autoprobe=1", "bind=vif-0")
}
