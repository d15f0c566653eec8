package vifowner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

const (
	// Module is the kernel's own frontend.
	Module = "xen-netfront"
	// Alias is the name by which udev loads it (MODALIAS of a vif), unless it is blacklisted.
	Alias = "xen:vif"
	// Limit is how long the kernel may take to probe or to remove a driver. Each takes
	// milliseconds with a backend that answers, and seconds on an emulated machine.
	Limit = 30 * time.Second
)

// Kernel is the kernel's side of a guest's vifs: which of them its driver has.
type Kernel struct {
	Sysfs string // /sys
	// Store writes an attribute of sysfs. It gives up when ctx ends.
	Store func(ctx context.Context, path, value string) error
	// Modprobe loads a module. It gives up when ctx ends.
	Modprobe func(ctx context.Context, module string) error
}

// NewKernel is the kernel whose sysfs is in a directory.
func NewKernel(sysfs string) *Kernel {
	return &Kernel{Sysfs: sysfs, Store: StoreAttribute, Modprobe: modprobe}
}

// Device is the kernel's directory of a vif.
func (k *Kernel) Device(devid int) string {
	return fmt.Sprintf("%s/bus/xen/devices/vif-%d", k.Sysfs, devid)
}

// driver is the kernel's directory of xen-netfront once that is loaded. The driver has the
// name of its type of device.
func (k *Kernel) driver() string { return k.Sysfs + "/bus/xen/drivers/vif" }

// Has tells whether the kernel knows the vif at all.
func (k *Kernel) Has(devid int) bool {
	_, err := os.Stat(k.Device(devid))
	return err == nil
}

// Driver is the name of the kernel's driver that has the vif, or empty.
func (k *Kernel) Driver(devid int) (string, error) {
	target, err := os.Readlink(k.Device(devid) + "/driver")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find the driver of vif-%d: %w", devid, err)
	}
	return filepath.Base(target), nil
}

// Stale tells whether the kernel remembers a state of the vif that is not a new vif's. Since
// Linux 7.0 the kernel gives such a vif to its driver as soon as its state is reset.
func (k *Kernel) Stale(devid int) bool {
	state, err := os.ReadFile(k.Device(devid) + "/state")
	return err == nil && strings.TrimSpace(string(state)) != netif.StateInitialising.String()
}

// Reserve keeps the daemons and every other command off a vif until release is called. A
// command reserves a vif before it takes it from the kernel's driver or gives it to that.
// The reservation is a lock of the kernel's own directory of the vif, which is there
// whenever there is something to take or to give.
func (k *Kernel) Reserve(ctx context.Context, devid int) (release func(), err error) {
	return lockDirectory(ctx, k.Device(devid), unix.LOCK_EX)
}

// Share keeps a vif from changing hands between the kernel and the daemons until release
// is called, see [Kernel.Reserve]. It fails when ctx ends before a command that has reserved
// the vif.
func (k *Kernel) Share(ctx context.Context, devid int) (release func(), err error) {
	release, err = lockDirectory(ctx, k.Device(devid), unix.LOCK_SH)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, errors.New("`xnetfrontd prepare` or `release` has reserved it: it is served after that")
	}
	return release, err
}

// CheckFree fails when a driver of the kernel has the vif. Two frontends on one vif would
// overwrite each other's rings.
func (k *Kernel) CheckFree(devid int) error {
	driver, err := k.Driver(devid)
	if err != nil || driver == "" {
		return err
	}
	return fmt.Errorf("the kernel's driver %q (xen-netfront) has it: take it away with `xnetfrontd prepare --vif %d`, and keep it away with `blacklist xen-netfront` in /etc/modprobe.d",
		driver, devid)
}

// Link is the name of the network interface that the kernel's driver has made, or empty.
func (k *Kernel) Link(devid int) string {
	entries, err := os.ReadDir(k.Device(devid) + "/net")
	if err != nil || len(entries) == 0 {
		return ""
	}
	return entries[0].Name()
}

// Unbind takes the vif from the kernel's driver.
func (k *Kernel) Unbind(ctx context.Context, devid int) error {
	driver, err := k.Driver(devid)
	if err != nil || driver == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	wrote := k.Store(ctx, fmt.Sprintf("%s/bus/xen/drivers/%s/unbind", k.Sysfs, driver), fmt.Sprintf("vif-%d", devid))
	if errors.Is(wrote, context.DeadlineExceeded) {
		return fmt.Errorf("the kernel's %s has not let go of it in %v: it waits for its backend, and lets go when that answers or `xl network-detach` takes the vif away", Module, Limit)
	}
	// If another process wrote the same at this moment, the write failed and the work is done.
	if driver, err = k.Driver(devid); err == nil && driver != "" {
		err = errors.Join(fmt.Errorf("the kernel's %s keeps it", Module), wrote)
	}
	return err
}

// Load loads the kernel's driver, unless that is loaded, so that it takes no vif by itself.
// A daemon may serve another vif, and the kernel cannot see that.
func (k *Kernel) Load(ctx context.Context) (loaded bool, err error) {
	if k.loaded() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	err = k.WithoutProbing(ctx, func() error { return k.Modprobe(ctx, Module) })
	if err != nil {
		return false, err
	}
	if !k.loaded() {
		return false, fmt.Errorf("load %s: modprobe succeeded, and there is no %s", Module, k.driver())
	}
	return true, nil
}

// Preload is [Kernel.Load] before udev does the same. It does nothing where udev could not
// load the driver either.
func (k *Kernel) Preload(ctx context.Context) (loaded bool, err error) {
	if k.loaded() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	err = k.WithoutProbing(ctx, func() error {
		_ = k.Modprobe(ctx, Alias) // an error here is one that udev would have, too
		return nil
	})
	return k.loaded(), err
}

func (k *Kernel) loaded() bool {
	_, err := os.Stat(k.driver())
	return err == nil
}

// WithoutProbing calls do while no driver takes a device by itself. A lock keeps every other
// process from doing the same meanwhile: it would save the 0 as the value to go back to.
func (k *Kernel) WithoutProbing(ctx context.Context, do func() error) error {
	release, err := lockDirectory(ctx, k.Sysfs+"/bus/xen", unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("keep %s from taking vifs: %w", Module, err)
	}
	defer release()
	probe := k.Sysfs + "/bus/xen/drivers_autoprobe"
	before, err := os.ReadFile(probe)
	if err != nil {
		return fmt.Errorf("keep %s from taking vifs: %w", Module, err)
	}
	if err := k.Store(ctx, probe, "0"); err != nil {
		return fmt.Errorf("keep %s from taking vifs: %w", Module, err)
	}
	err = do()
	// In any case, a vif that is plugged in later finds its driver.
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), Limit)
	defer cancel()
	return errors.Join(err, k.Store(back, probe, strings.TrimSpace(string(before))))
}

// Bind gives the vif to the kernel's driver. Its frontend's state must be Initialising,
// and its backend must not be Closed; else the kernel waits in the probe for ever.
func (k *Kernel) Bind(ctx context.Context, devid int) error {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	wrote := k.Store(ctx, k.driver()+"/bind", fmt.Sprintf("vif-%d", devid))
	if errors.Is(wrote, context.DeadlineExceeded) {
		return fmt.Errorf("the kernel's %s has not taken it in %v: it waits for its backend, and takes it when that answers", Module, Limit)
	}
	driver, err := k.Driver(devid)
	if err == nil && driver == "" {
		err = errors.Join(fmt.Errorf("the kernel's %s does not take it; see dmesg", Module), wrote)
	}
	return err
}

// AttributeCommand is the command of this program that [StoreAttribute] runs, with a path
// and a value.
const AttributeCommand = "store-attribute"

// StoreAttribute writes an attribute of sysfs from a process of its own. The kernel probes
// and removes drivers within the write, and can wait there where no signal reaches it. A
// process that did the write itself could not even exit.
func StoreAttribute(ctx context.Context, path, value string) error {
	err := runApart(ctx, "/proc/self/exe", AttributeCommand, path, value)
	if err != nil {
		return fmt.Errorf("write %q to %s: %w", value, path, err)
	}
	return nil
}

func modprobe(ctx context.Context, module string) error {
	if err := runApart(ctx, "modprobe", module); err != nil {
		return fmt.Errorf("load %s: %w", module, err)
	}
	return nil
}

// runApart runs a command to its end. When ctx ends before that, runApart leaves the command
// behind, since its wait in the kernel may end later. The error is the command's own
// message.
func runApart(ctx context.Context, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-ended:
		if line := strings.TrimPrefix(strings.TrimSpace(said.String()), "xnetfrontd: "); err != nil && line != "" {
			return errors.New(line)
		}
		return err
	}
}
