package privilege

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// asUser marks in the environment the process that startAsUser started.
const asUser = "XNETFRONTD_TEST_PRIVILEGE"

// nobody is a user without rights of its own.
const nobody = 65534

// startAsUser runs one test of this package as systemd runs the daemon: as a user whose only
// capability is CAP_NET_ADMIN. It has a network namespace of its own, and a /dev/net/tun that
// every user may open, as udev makes it. The program is static, as the daemon is.
func startAsUser(t *testing.T, test string) {
	t.Helper()
	needs.Root(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "privilege.test")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the test without cgo: %v: %s", err, out)
	}
	for at := dir; at != filepath.Clean(os.TempDir()) && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/bin/sh", "-euc", fmt.Sprintf(`mknod -m 666 tun c 10 200
		mount --bind tun /dev/net/tun
		exec setpriv --reuid=%[1]d --regid=%[1]d --clear-groups --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin \
			%[2]s -test.run '^%[3]s$' -test.v`, nobody, program, test))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asUser+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWNET,
		Unshareflags: unix.CLONE_NEWNS, // what is mounted stays private
		Pdeathsig:    unix.SIGKILL,
	}
	runtime.LockOSThread() // the signal comes when the thread ends
	defer runtime.UnlockOSThread()
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+test) {
		t.Errorf("as user %d: %v: %s", nobody, err, out)
	}
}

// inEffect returns the number of threads of this process that have capabilities in effect, and
// the capabilities.
func inEffect(t *testing.T) (threads int, sets []string) {
	t.Helper()
	paths, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		threads++
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "CapEff:"); ok && strings.Trim(value, "0 \t\n") != "" {
				sets = append(sets, strings.TrimSpace(value))
			}
		}
	}
	return threads, sets
}

// occupy keeps n goroutines on threads of their own, until the function that it returns is
// called.
func occupy(n int) (leave func()) {
	var started, ended sync.WaitGroup
	stop := make(chan struct{})
	started.Add(n)
	for range n {
		ended.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			started.Done()
			<-stop
		})
	}
	started.Wait()
	return func() { close(stop); ended.Wait() }
}

func TestNoThreadHasACapabilityInEffectButInsideACall(t *testing.T) {
	if os.Getenv(asUser) == "" {
		startAsUser(t, t.Name())
		return
	}
	defer occupy(8)()
	if threads, sets := inEffect(t); len(sets) != threads {
		t.Fatalf("before: %d of %d threads have something to drop: %v", len(sets), threads, sets)
	}
	call, err := Drop()
	if err != nil {
		t.Fatal(err)
	}
	atRest := func(when string) {
		t.Helper()
		if threads, sets := inEffect(t); threads < 9 || len(sets) != 0 {
			t.Errorf("%s: of %d threads these have capabilities in effect: %v", when, threads, sets)
		}
	}
	atRest("after Drop")
	defer occupy(8)() // threads that are made later
	atRest("with new threads")

	broken := errors.New("broken")
	err = call(func() error {
		leave := occupy(8) // threads that are made meanwhile
		defer leave()
		if threads, sets := inEffect(t); threads < 25 || len(sets) != 1 || sets[0] != fmt.Sprintf("%016x", netAdmin) {
			t.Errorf("in a call: of %d threads these have capabilities in effect: %v, want CAP_NET_ADMIN of one", threads, sets)
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("a call returned %v, not what its function did", err)
	}
	atRest("after a call")
	func() {
		defer func() { _ = recover() }()
		_ = call(func() error { panic("a fault") })
	}()
	atRest("after a panic in a call")
}

func TestTAPIsMadeAndChangedWithNothingInEffectBetweenCalls(t *testing.T) {
	if os.Getenv(asUser) == "" {
		startAsUser(t, t.Name())
		return
	}
	call, err := Drop()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tap.Create(tap.Config{Name: "without"}); !errors.Is(err, unix.EPERM) && (err == nil || !strings.Contains(err.Error(), "permitted")) {
		t.Errorf("a TAP was made with nothing in effect: %v", err)
	}
	cfg := tap.Config{Name: "with", MTU: 1400, TxQueueLen: 100, Privileged: call}
	d, err := tap.Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	queues, err := d.SetQueues(2)
	if err != nil {
		t.Fatal(err)
	}
	fds := []int{queues[0].FD(), queues[1].FD()}
	for i := range fds {
		if fds[i], err = unix.FcntlInt(uintptr(fds[i]), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
	}
	keeper, err := unix.FcntlInt(uintptr(d.KeeperFD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Release(); err != nil {
		t.Fatal(err)
	}
	if d, err = tap.Adopt(cfg, keeper, fds); err != nil {
		t.Fatalf("adopt: %v", err)
	}
	_, more := d.SetQueues(3)
	_, fewer := d.SetQueues(1)
	for what, err := range map[string]error{
		"up": d.SetUp(true), "MTU": d.SetMTU(9000), "MAC address": d.SetMAC([]byte{2, 0, 0, 0, 0, 1}),
		"transmit queue length": d.SetTxQueueLen(50), "GSO size": d.SetGSOMaxSize(tap.MaxGSOSize),
		"carrier": d.SetCarrier(true), "offloads": d.SetOffload(d.ProbeOffload()), "more queues": more, "fewer queues": fewer,
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := d.Stats(); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, sets := inEffect(t); len(sets) != 0 {
		t.Errorf("capabilities are still in effect: %v", sets)
	}
}

func TestRootKeepsItsCapabilities(t *testing.T) {
	needs.Root(t)
	_, before := inEffect(t)
	call, err := Drop()
	if err != nil {
		t.Fatal(err)
	}
	if err := call(func() error { return nil }); err != nil {
		t.Error(err)
	}
	if _, after := inEffect(t); len(after) < len(before) {
		t.Errorf("root had %v in effect, and has %v", before, after)
	}
}
