package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeKernel is sysfs in a directory, and what a kernel does when it is written to.
type fakeKernel struct {
	t       *testing.T
	sys     system
	hangs   string                // the attribute whose write never ends
	refuses string                // the value whose write fails
	lacks   bool                  // the module, or it is blacklisted
	bound   func(devid int) error // what the driver does with a vif
	closed  func(devid int)       // what it does when it lets go; nil: nothing

	mu    sync.Mutex
	wrote []string // "attribute=value", in order
}

// newFakeKernel has vifs that its driver has, if it is loaded.
func newFakeKernel(t *testing.T, loaded bool, vifs ...int) *fakeKernel {
	t.Helper()
	k := &fakeKernel{t: t, sys: fakeSystem(t), bound: func(int) error { return nil }}
	writeFile(t, k.sys.sysfs+"/bus/xen/drivers_autoprobe", "1\n")
	if !loaded {
		k.must(os.Remove(k.driver()))
	}
	for _, id := range vifs {
		k.must(os.Mkdir(k.device(id), 0o755))
		if loaded {
			k.attach(id)
		}
	}
	return k
}

func (k *fakeKernel) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *fakeKernel) driver() string { return k.sys.sysfs + "/bus/xen/drivers/vif" }

func (k *fakeKernel) device(devid int) string {
	return fmt.Sprintf("%s/bus/xen/devices/vif-%d", k.sys.sysfs, devid)
}

// attach is what a driver's probe leaves.
func (k *fakeKernel) attach(devid int) {
	k.t.Helper()
	k.must(os.Symlink("../../drivers/vif", k.device(devid)+"/driver"))
	k.must(os.MkdirAll(fmt.Sprintf("%s/net/eth%d", k.device(devid), devid), 0o755))
}

// bus is what is tested, on this kernel.
func (k *fakeKernel) bus() *kernelBus {
	return &kernelBus{sysfs: k.sys.sysfs, store: k.store, modprobe: k.load}
}

func (k *fakeKernel) store(ctx context.Context, path, value string) error {
	name := filepath.Base(path)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wrote = append(k.wrote, name+"="+value)
	if name == k.hangs {
		return context.DeadlineExceeded
	}
	if value == k.refuses {
		return errors.New("permission denied")
	}
	var devid int
	switch name {
	case "drivers_autoprobe":
		return os.WriteFile(path, []byte(value+"\n"), 0o600)
	case "unbind":
		fmt.Sscanf(value, "vif-%d", &devid)
		if k.closed != nil {
			k.closed(devid)
		}
		return errors.Join(os.Remove(k.device(devid)+"/driver"), os.RemoveAll(k.device(devid)+"/net"))
	case "bind":
		fmt.Sscanf(value, "vif-%d", &devid)
		if err := k.bound(devid); err != nil {
			return err
		}
		k.attach(devid)
		return nil
	}
	return os.ErrNotExist
}

// load takes every vif without a driver, as the kernel does, unless it is told not to.
func (k *fakeKernel) load(ctx context.Context, module string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wrote = append(k.wrote, "modprobe="+module)
	if k.lacks || module != kernelModule && module != kernelAlias {
		return fmt.Errorf("load %s: modprobe: FATAL: Module %s not found", module, module)
	}
	k.must(os.Mkdir(k.driver(), 0o755))
	auto, err := os.ReadFile(k.sys.sysfs + "/bus/xen/drivers_autoprobe")
	k.must(err)
	if strings.TrimSpace(string(auto)) == "0" {
		return nil
	}
	vifs, err := filepath.Glob(k.sys.sysfs + "/bus/xen/devices/vif-*")
	k.must(err)
	for i := range vifs {
		k.attach(i)
	}
	return nil
}

func (k *fakeKernel) wantWritten(want ...string) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if got := strings.Join(k.wrote, " "); got != strings.Join(want, " ") {
		k.t.Errorf("written: %s\nwant:    %s", got, strings.Join(want, " "))
	}
}

// wantUnbound wants that many vifs to have been taken, whichever first, each in a window of
// its own in which the kernel probed nothing.
func (k *fakeKernel) wantUnbound(n int) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	probing, unbound := true, 0
	for _, w := range k.wrote {
		switch {
		case strings.HasPrefix(w, "unbind=vif-"):
			unbound++
		case w == "drivers_autoprobe=0" && probing, w == "drivers_autoprobe=1" && !probing:
			probing = !probing
		default:
			k.t.Errorf("written in no window of its own: %s", w)
		}
	}
	if !probing || unbound != n || len(k.wrote) != 3*n {
		k.t.Errorf("%d vifs are to be taken, and this was written: %s", n, k.wrote)
	}
}

func TestLoadingTheKernelsDriverTakesNoOtherVif(t *testing.T) {
	k := newFakeKernel(t, false, 0, 1)
	bus := k.bus()
	if loaded, err := bus.load(t.Context()); err != nil || !loaded {
		t.Fatalf("loaded: %v, %v", loaded, err)
	}
	for id := range 2 {
		if driver, err := bus.owner(id); driver != "" || err != nil {
			t.Errorf("vif %d has driver %q, %v", id, driver, err)
		}
	}
	k.wantWritten("drivers_autoprobe=0", "modprobe=xen-netfront", "drivers_autoprobe=1")
	k.wrote = nil
	if loaded, err := bus.load(t.Context()); err != nil || loaded {
		t.Errorf("loaded again: %v, %v", loaded, err)
	}
	k.wantWritten()
}

func TestModuleThatCannotBeLoadedLeavesTheBusAsItWas(t *testing.T) {
	k := newFakeKernel(t, false, 0)
	bus := k.bus()
	bus.modprobe = func(context.Context, string) error { return errors.New("no such module") }
	_, err := bus.load(t.Context())
	wantMessage(t, err, "no such module")
	k.wantWritten("drivers_autoprobe=0", "drivers_autoprobe=1")
}

func TestKernelThatDoesNotLetGoIsNotWaitedForLongerThanTheLimit(t *testing.T) {
	k := newFakeKernel(t, true, 0)
	k.hangs = "unbind"
	wantMessage(t, k.bus().unbind(t.Context(), 0), "the kernel's xen-netfront has not let go of it in 30s: it waits for its backend, and lets go when that answers or `xl network-detach` takes the vif away")
	k.hangs = "bind"
	wantMessage(t, k.bus().bind(t.Context(), 0), "the kernel's xen-netfront has not taken it in 30s: it waits for its backend, and takes it when that answers")
}

func TestCommandStuckInTheKernelIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	release := filepath.Join(dir, "fifo")
	// cat waits in open(2) until somebody writes.
	if err := runApart(ctx, "sh", "-c", "mkfifo "+release+" && cat "+release); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the deadline", err)
	}
	for range 1000 {
		if f, err := os.OpenFile(release, os.O_WRONLY, 0); err == nil {
			f.Close()
			return
		}
		time.Sleep(time.Millisecond) // sh has not made it yet
	}
	t.Error("the command was never there")
}

func TestWriteToSysfsComesFromAProcessOfItsOwnAndNamesWhatFailed(t *testing.T) {
	path := writeFile(t, filepath.Join(t.TempDir(), "bind"), "")
	if o := runProgram(t, program("store-attribute", path, "vif-0")); o.code != 0 || o.out != "" || o.errOut != "" {
		t.Errorf("%+v", o)
	}
	if b, err := os.ReadFile(path); string(b) != "vif-0" || err != nil {
		t.Errorf("written %q, %v", b, err)
	}
	missing := filepath.Join(t.TempDir(), "none", "bind")
	wantError(t, runProgram(t, program("store-attribute", missing, "vif-0")), exitRuntime, "open "+missing+": no such file or directory")
}
