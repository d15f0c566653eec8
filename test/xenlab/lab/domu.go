package lab

import (
	"context"

	"golang.org/x/sys/unix"
)

// DomUConfig says what guest to create. Only Name is required.
type DomUConfig struct {
	Name       string
	MemMiB     int    // 0 is 256; 224 is the least that works
	VCPUs      int    // 0 is 1; more are not reliable under emulation
	Image      string // "" is the small one, "debian" has systemd and a full userland
	KernelArgs string // added to the command line
	Vifs       []VifConfig
	// Payload maps paths in the guest to files of the host, which are added to its
	// initramfs. The daemon and the agent are always there.
	Payload map[string]string
	Config  []string // further lines of xl.cfg(5)
}

// VifConfig is one vif. Its zero value is a vif on Bridge.
type VifConfig struct {
	MAC     string // empty: 00:16:3e:00:<n>:<vif> of the n-th domU created
	Bridge  string // empty: Bridge
	Backend string // name of the domain with the backend; empty: dom0
	MTU     int    // 0: the toolstack's 1500; the hotplug script sets it on the vif too
	Rate    string // as in xl-network-configuration(5), such as "10Mb/s@50ms"
}

// DomU is a guest with vifs.
type DomU struct {
	*Guest
	Name   string
	Config DomUConfig // with the defaults filled in, MACs included
}

// ID is the domain's number, which changes with a restore.
func (d *DomU) ID() int { return 0 }

// Destroy ends the domain at once, as xl destroy does.
func (d *DomU) Destroy(ctx context.Context) error { return errSkeleton }

// Reconnect finds the domain again by its name, with a new number if it has one, and
// begins a new session with its agent. It is for after a restore or a reboot.
func (d *DomU) Reconnect(ctx context.Context) error { return errSkeleton }

// Vif is the name of a vif's interface in dom0.
func (d *DomU) Vif(devid int) string { return "" }

// FrontendPath and BackendPath are a vif's directories in xenstore.
func (d *DomU) FrontendPath(devid int) string { return "" }

// BackendPath is for a backend in dom0.
func (d *DomU) BackendPath(devid int) string { return "" }

// AwaitBackend waits until the backend's state, as xenstore has it, is one of states.
func (d *DomU) AwaitBackend(ctx context.Context, devid int, states ...int) error { return errSkeleton }

// AwaitCarrier waits until the vif's interface in dom0 has a carrier, or has none.
func (d *DomU) AwaitCarrier(ctx context.Context, devid int, on bool) error { return errSkeleton }

// InstallDaemon puts the static binary to /usr/bin/xnetfrontd and makes the folders
// that its unit would make.
func (d *DomU) InstallDaemon(ctx context.Context) error { return errSkeleton }

// StartDaemon starts "xnetfrontd args...", detached, and returns when it says that it
// is ready, as sd_notify(3) has it: its TAPs exist then, and nothing else is promised.
func (d *DomU) StartDaemon(ctx context.Context, args ...string) (*Daemon, error) {
	return nil, errSkeleton
}

// Daemon is xnetfrontd in a domU.
type Daemon struct {
	Pid int
}

// Stop sends SIGTERM, waits, and fails unless the daemon ended with code 0.
func (d *Daemon) Stop(ctx context.Context) error { return errSkeleton }

// Kill sends SIGKILL and waits.
func (d *Daemon) Kill(ctx context.Context) error { return errSkeleton }

// Signal sends a signal and does not wait.
func (d *Daemon) Signal(ctx context.Context, s unix.Signal) error { return errSkeleton }

// Wait waits for the end. It works after Reconnect too.
func (d *Daemon) Wait(ctx context.Context) (Result, error) { return Result{}, errSkeleton }

// Log is all that the daemon has written so far.
func (d *Daemon) Log(ctx context.Context) (string, error) { return "", errSkeleton }
