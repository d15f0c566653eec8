// Package fakekernel is the kernel's side of a guest's vifs for tests: sysfs in a directory,
// and what a kernel does when a file of it is written.
package fakekernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
)

// Kernel is sysfs in a directory, and what a kernel does when it is written to.
type Kernel struct {
	t       *testing.T
	System  machine.System
	Hangs   string                // the attribute whose write never ends
	Refuses string                // the value whose write fails
	Lacks   bool                  // it has no such module, or the module is blacklisted
	Bound   func(devid int) error // called when the driver takes a vif
	Closed  func(devid int)       // called when the driver lets go of a vif; nil: nothing

	mu    sync.Mutex
	Wrote []string // "attribute=value", in order
}

// New has vifs. Its driver has them, if that is loaded.
func New(t *testing.T, loaded bool, vifs ...int) *Kernel {
	t.Helper()
	k := &Kernel{t: t, System: NewSystem(t), Bound: func(int) error { return nil }}
	cmdtest.WriteFile(t, k.System.Sysfs+"/bus/xen/drivers_autoprobe", "1\n")
	if !loaded {
		k.Must(os.Remove(k.Driver()))
	}
	for _, id := range vifs {
		k.Must(os.Mkdir(k.Device(id), 0o755))
		if loaded {
			k.Attach(id)
		}
	}
	return k
}

// Must ends the test after an error.
func (k *Kernel) Must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// Driver is the directory of xen-netfront.
func (k *Kernel) Driver() string { return k.System.Sysfs + "/bus/xen/drivers/vif" }

// Device is the directory of a vif.
func (k *Kernel) Device(devid int) string {
	return fmt.Sprintf("%s/bus/xen/devices/vif-%d", k.System.Sysfs, devid)
}

// Attach leaves in sysfs what the driver's probe does.
func (k *Kernel) Attach(devid int) {
	k.t.Helper()
	k.Must(os.Symlink("../../drivers/vif", k.Device(devid)+"/driver"))
	k.Must(os.MkdirAll(fmt.Sprintf("%s/net/eth%d", k.Device(devid), devid), 0o755))
}

// Owner is the code under test, on this kernel.
func (k *Kernel) Owner() *vifowner.Kernel {
	return &vifowner.Kernel{Sysfs: k.System.Sysfs, Store: k.WriteAttribute, Modprobe: k.load}
}

// WriteAttribute writes an attribute of sysfs, and does what the kernel does then.
func (k *Kernel) WriteAttribute(ctx context.Context, path, value string) error {
	name := filepath.Base(path)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Wrote = append(k.Wrote, name+"="+value)
	if name == k.Hangs {
		return context.DeadlineExceeded
	}
	if value == k.Refuses {
		return errors.New("permission denied")
	}
	var devid int
	switch name {
	case "drivers_autoprobe":
		return os.WriteFile(path, []byte(value+"\n"), 0o600)
	case "unbind":
		fmt.Sscanf(value, "vif-%d", &devid)
		if k.Closed != nil {
			k.Closed(devid)
		}
		return errors.Join(os.Remove(k.Device(devid)+"/driver"), os.RemoveAll(k.Device(devid)+"/net"))
	case "bind":
		fmt.Sscanf(value, "vif-%d", &devid)
		if err := k.Bound(devid); err != nil {
			return err
		}
		k.Attach(devid)
		return nil
	}
	return os.ErrNotExist
}

// load loads the driver, which takes every vif unless drivers_autoprobe keeps it from that.
func (k *Kernel) load(ctx context.Context, module string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Wrote = append(k.Wrote, "modprobe="+module)
	if k.Lacks || module != vifowner.Module && module != vifowner.Alias {
		return fmt.Errorf("load %s: modprobe: FATAL: Module %s not found", module, module)
	}
	k.Must(os.Mkdir(k.Driver(), 0o755))
	auto, err := os.ReadFile(k.System.Sysfs + "/bus/xen/drivers_autoprobe")
	k.Must(err)
	if strings.TrimSpace(string(auto)) == "0" {
		return nil
	}
	vifs, err := filepath.Glob(k.System.Sysfs + "/bus/xen/devices/vif-*")
	k.Must(err)
	for i := range vifs {
		k.Attach(i)
	}
	return nil
}

// WantWritten checks all that was written and loaded.
func (k *Kernel) WantWritten(want ...string) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if got := strings.Join(k.Wrote, " "); got != strings.Join(want, " ") {
		k.t.Errorf("written: %s\nwant:    %s", got, strings.Join(want, " "))
	}
}

// WantUnbound checks that n vifs were taken in any order, each in a time of its own in which
// the kernel probed nothing.
func (k *Kernel) WantUnbound(n int) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	probing, unbound := true, 0
	for _, w := range k.Wrote {
		switch {
		case strings.HasPrefix(w, "unbind=vif-"):
			unbound++
		case w == "drivers_autoprobe=0" && probing, w == "drivers_autoprobe=1" && !probing:
			probing = !probing
		default:
			k.t.Errorf("written in no window of its own: %s", w)
		}
	}
	if !probing || unbound != n || len(k.Wrote) != 3*n {
		k.t.Errorf("%d vifs are to be taken, and this was written: %s", n, k.Wrote)
	}
}

// NewSystem is a machine in a directory.
func NewSystem(t testing.TB) machine.System {
	t.Helper()
	root := t.TempDir()
	s := machine.System{Sysfs: root + "/sys", Dev: root + "/dev", Proc: root + "/proc", Boot: root + "/boot", Lib: root + "/lib", Run: root + "/run"}
	for _, d := range []string{s.Run, s.Sysfs + "/hypervisor", s.Sysfs + "/bus/xen/devices", s.Sysfs + "/bus/xen/drivers/vif", s.Dev + "/net"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}
