package vifowner_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/fakekernel"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
)

func TestVifOfTheKernelsDriverIsRefusedWithTheRemedy(t *testing.T) {
	s := vifowner.NewKernel(fakekernel.NewSystem(t).Sysfs)
	dir := s.Sysfs + "/bus/xen/devices/vif-3"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckFree(3); err != nil {
		t.Errorf("no driver has it: %v", err)
	}
	if err := s.CheckFree(4); err != nil {
		t.Errorf("not there: %v", err)
	}
	if err := os.Symlink("../../drivers/vif", filepath.Join(dir, "driver")); err != nil {
		t.Fatal(err)
	}
	cmdtest.WantError(t, s.CheckFree(3), `the kernel's driver "vif" (xen-netfront) has it: take it away with`+
		" `xnetfrontd prepare --vif 3`, and keep it away with `blacklist xen-netfront` in /etc/modprobe.d")
}

func TestLoadingTheKernelsDriverTakesNoOtherVif(t *testing.T) {
	k := fakekernel.New(t, false, 0, 1)
	bus := k.Owner()
	if loaded, err := bus.Load(t.Context()); err != nil || !loaded {
		t.Fatalf("loaded: %v, %v", loaded, err)
	}
	for id := range 2 {
		if driver, err := bus.Driver(id); driver != "" || err != nil {
			t.Errorf("vif %d has driver %q, %v", id, driver, err)
		}
	}
	k.WantWritten("drivers_autoprobe=0", "modprobe=xen-netfront", "drivers_autoprobe=1")
	k.Wrote = nil
	if loaded, err := bus.Load(t.Context()); err != nil || loaded {
		t.Errorf("loaded again: %v, %v", loaded, err)
	}
	k.WantWritten()
}

func TestModuleThatCannotBeLoadedLeavesTheBusAsItWas(t *testing.T) {
	k := fakekernel.New(t, false, 0)
	bus := k.Owner()
	bus.Modprobe = func(context.Context, string) error { return errors.New("no such module") }
	_, err := bus.Load(t.Context())
	cmdtest.WantError(t, err, "no such module")
	k.WantWritten("drivers_autoprobe=0", "drivers_autoprobe=1")
}

func TestKernelThatDoesNotLetGoIsNotWaitedForLongerThanTheLimit(t *testing.T) {
	k := fakekernel.New(t, true, 0)
	k.Hangs = "unbind"
	cmdtest.WantError(t, k.Owner().Unbind(t.Context(), 0), "the kernel's xen-netfront has not let go of it in 30s: it waits for its backend, and lets go when that answers or `xl network-detach` takes the vif away")
	k.Hangs = "bind"
	cmdtest.WantError(t, k.Owner().Bind(t.Context(), 0), "the kernel's xen-netfront has not taken it in 30s: it waits for its backend, and takes it when that answers")
}
