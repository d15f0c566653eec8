package main

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
	// kernelModule is the kernel's own frontend.
	kernelModule = "xen-netfront"
	// kernelAlias is what udev loads it by (MODALIAS of a vif), unless it is blacklisted.
	kernelAlias = "xen:vif"
	// kernelLimit is how long the kernel may take to probe or remove a driver. Each
	// takes milliseconds with a backend that answers, seconds on an emulated machine.
	kernelLimit = 30 * time.Second
)

// kernelBus is the kernel's side of a guest's vifs: which of them its driver has.
type kernelBus struct {
	sysfs string // /sys
	// store writes an attribute of sysfs. It gives up when ctx ends.
	store func(ctx context.Context, path, value string) error
	// modprobe loads a module. It gives up when ctx ends.
	modprobe func(ctx context.Context, module string) error
}

func newKernelBus(sys system) *kernelBus {
	return &kernelBus{sysfs: sys.sysfs, store: storeAttribute, modprobe: modprobe}
}

func (k *kernelBus) device(devid int) string {
	return fmt.Sprintf("%s/bus/xen/devices/vif-%d", k.sysfs, devid)
}

// driver is where xen-netfront is once it is loaded: it calls itself after its type
// of device.
func (k *kernelBus) driver() string { return k.sysfs + "/bus/xen/drivers/vif" }

// has tells whether the kernel knows the vif at all.
func (k *kernelBus) has(devid int) bool {
	_, err := os.Stat(k.device(devid))
	return err == nil
}

// owner is the kernel's driver that has the vif, or empty.
func (k *kernelBus) owner(devid int) (string, error) {
	target, err := os.Readlink(k.device(devid) + "/driver")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find the driver of vif-%d: %w", devid, err)
	}
	return filepath.Base(target), nil
}

// stale tells whether the kernel remembers the vif in another state than that of one that
// is new. Since Linux 7.0 it gives such a vif to its driver as soon as somebody resets it.
func (k *kernelBus) stale(devid int) bool {
	state, err := os.ReadFile(k.device(devid) + "/state")
	return err == nil && strings.TrimSpace(string(state)) != netif.StateInitialising.String()
}

// reserve keeps the daemons and every other command off a vif until release is called: to
// take it from the kernel's driver, or to give it to that. Who reserves it holds a lock of
// the kernel's own directory of the vif, which is there whenever there is something to
// take or to give.
func (k *kernelBus) reserve(ctx context.Context, devid int) (release func(), err error) {
	return lockDirectory(ctx, k.device(devid), unix.LOCK_EX)
}

// link is the network interface that the kernel's driver has made, or empty.
func (k *kernelBus) link(devid int) string {
	entries, err := os.ReadDir(k.device(devid) + "/net")
	if err != nil || len(entries) == 0 {
		return ""
	}
	return entries[0].Name()
}

// unbind takes the vif from the kernel's driver.
func (k *kernelBus) unbind(ctx context.Context, devid int) error {
	driver, err := k.owner(devid)
	if err != nil || driver == "" {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, kernelLimit)
	defer cancel()
	wrote := k.store(ctx, fmt.Sprintf("%s/bus/xen/drivers/%s/unbind", k.sysfs, driver), fmt.Sprintf("vif-%d", devid))
	if errors.Is(wrote, context.DeadlineExceeded) {
		return fmt.Errorf("the kernel's %s has not let go of it in %v: it waits for its backend, and lets go when that answers or `xl network-detach` takes the vif away", kernelModule, kernelLimit)
	}
	// Written by another one in the same moment, it is an error and yet done.
	if driver, err = k.owner(devid); err == nil && driver != "" {
		err = errors.Join(fmt.Errorf("the kernel's %s keeps it", kernelModule), wrote)
	}
	return err
}

// load loads the kernel's driver, unless it is there, in a way that it takes no vif by
// itself: another one may be served by a daemon, which the kernel cannot see.
func (k *kernelBus) load(ctx context.Context) (loaded bool, err error) {
	if k.loaded() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, kernelLimit)
	defer cancel()
	err = k.withoutProbing(ctx, func() error { return k.modprobe(ctx, kernelModule) })
	if err != nil {
		return false, err
	}
	if !k.loaded() {
		return false, fmt.Errorf("load %s: modprobe succeeded, and there is no %s", kernelModule, k.driver())
	}
	return true, nil
}

// forestall is load where udev may be about to do it, and does nothing where udev
// could not.
func (k *kernelBus) forestall(ctx context.Context) (loaded bool, err error) {
	if k.loaded() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, kernelLimit)
	defer cancel()
	err = k.withoutProbing(ctx, func() error {
		_ = k.modprobe(ctx, kernelAlias) // what fails here fails for udev
		return nil
	})
	return k.loaded(), err
}

func (k *kernelBus) loaded() bool {
	_, err := os.Stat(k.driver())
	return err == nil
}

// withoutProbing calls do while no driver takes a device by itself. Nobody else does so
// meanwhile, who would take the 0 for what was there before.
func (k *kernelBus) withoutProbing(ctx context.Context, do func() error) error {
	release, err := lockDirectory(ctx, k.sysfs+"/bus/xen", unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("keep %s from taking vifs: %w", kernelModule, err)
	}
	defer release()
	probe := k.sysfs + "/bus/xen/drivers_autoprobe"
	before, err := os.ReadFile(probe)
	if err != nil {
		return fmt.Errorf("keep %s from taking vifs: %w", kernelModule, err)
	}
	if err := k.store(ctx, probe, "0"); err != nil {
		return fmt.Errorf("keep %s from taking vifs: %w", kernelModule, err)
	}
	err = do()
	// Whatever came of it, a vif that is plugged in later finds its driver.
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), kernelLimit)
	defer cancel()
	return errors.Join(err, k.store(back, probe, strings.TrimSpace(string(before))))
}

// bind gives the vif to the kernel's driver. Its frontend's state must be Initialising
// and its backend must not be Closed, or the kernel waits in the probe for ever.
func (k *kernelBus) bind(ctx context.Context, devid int) error {
	ctx, cancel := context.WithTimeout(ctx, kernelLimit)
	defer cancel()
	wrote := k.store(ctx, k.driver()+"/bind", fmt.Sprintf("vif-%d", devid))
	if errors.Is(wrote, context.DeadlineExceeded) {
		return fmt.Errorf("the kernel's %s has not taken it in %v: it waits for its backend, and takes it when that answers", kernelModule, kernelLimit)
	}
	driver, err := k.owner(devid)
	if err == nil && driver == "" {
		err = errors.Join(fmt.Errorf("the kernel's %s does not take it; see dmesg", kernelModule), wrote)
	}
	return err
}

// attributeCmd is the process that storeAttribute starts.
type attributeCmd struct {
	Path  string `arg:""`
	Value string `arg:""`
}

func (c *attributeCmd) Run(streams) error { return os.WriteFile(c.Path, []byte(c.Value), 0) }

// storeAttribute writes an attribute of sysfs from a process of its own: the kernel
// probes and removes drivers in the write, and can wait there where no signal reaches
// it. A process that did that itself could not even exit.
func storeAttribute(ctx context.Context, path, value string) error {
	err := runApart(ctx, "/proc/self/exe", "store-attribute", path, value)
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

// runApart runs a command to its end, or until ctx ends, and then leaves it behind:
// what it waits for in the kernel may still come. The error is what it says itself.
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
