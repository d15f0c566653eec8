package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/wire"
)

// DomUConfig says what guest to create. Only Name is required.
type DomUConfig struct {
	Name       string
	MemMiB     int         // 0 is 256, and 512 for Debian; 224 is the least that works
	VCPUs      int         // 0 is 1; more are not reliable under emulation
	Type       string      // as xl.cfg(5) has it: TypePV or TypePVH; "" is the lab's, see Options
	Image      string      // "" is the small one; ImageDebian has systemd and a full userland
	KernelArgs string      // added to the command line; labmods=a,b loads modules at boot
	Vifs       []VifConfig // none is none
	// Payload maps paths in the guest to files of the host, which are added to its
	// initramfs. The daemon and the agent are always there.
	Payload map[string]string
	Config  []string // further lines of xl.cfg(5)

	disk string // of dom0, for Debian
}

// VifConfig is one vif. Its zero value is a vif on Bridge.
type VifConfig struct {
	MAC     string // empty: 00:16:3e:00:<n>:<devid> for the n-th domU that was created
	Bridge  string // empty: Bridge
	Backend string // name of the domain with the backend; empty: dom0
	MTU     int    // 0: the toolstack's 1500; the hotplug script sets it on dom0's interface too
	Rate    string // as in xl-network-configuration(5), such as "10Mb/s@50ms"
}

// Spec is the vif as `xl network-attach` takes it, as arguments.
func (v VifConfig) Spec() []string {
	if v.Bridge == "" {
		v.Bridge = Bridge
	}
	parts := strings.Split(v.spec(), ",")
	if v.MAC == "" {
		parts = parts[1:]
	}
	return parts
}

// successorInterval is between two looks for a domain's new name: libxl gives it late,
// and has no event for it.
const successorInterval = 300 * time.Millisecond

// DomU is a guest with vifs.
type DomU struct {
	*Guest
	Name   string     // as the toolstack has it
	Config DomUConfig // with the defaults filled in, MACs included

	lab *Lab
	id  atomic.Int64
}

// CreateDomU creates a guest and returns when its agent answers. If it does not, the
// guest is returned with the error, to be destroyed.
func (l *Lab) CreateDomU(ctx context.Context, c DomUConfig) (*DomU, error) {
	l.mu.Lock()
	n := l.made
	l.made++
	l.mu.Unlock()
	if err := c.complete(n, l.options.GuestType); err != nil {
		return nil, fmt.Errorf("create domU %s: %w", c.Name, err)
	}
	if c.Image == ImageDebian {
		if err := l.takeDisk(&c); err != nil {
			return nil, fmt.Errorf("create domU %s: %w", c.Name, err)
		}
	}
	d := &DomU{Guest: &Guest{name: c.Name}, Name: c.Name, Config: c, lab: l}
	if err := d.create(ctx); err != nil {
		return nil, fmt.Errorf("create domU %s: %w", c.Name, err)
	}
	l.mu.Lock()
	l.domUs = append(l.domUs, d)
	l.mu.Unlock()
	if err := d.Reconnect(ctx); err != nil {
		// It stays in the list: the evidence is about it, and Destroy can still be had.
		return d, err
	}
	return d, nil
}

// takeDisk gives a Debian guest the next disk.
func (l *Lab) takeDisk(c *DomUConfig) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.disks == debianDisks {
		return fmt.Errorf("one boot has disks for %d Debian guests", debianDisks)
	}
	c.disk = debianDisk(l.disks)
	l.disks++
	return nil
}

// create has the toolstack build the domain.
func (d *DomU) create(ctx context.Context) error {
	dom0, base := d.lab.dom0, "/tmp/"+d.Name
	overlays := []string{guestOverlay}
	if len(d.Config.Payload) > 0 {
		name := d.Name + ".payload"
		path := filepath.Join(d.lab.ShareDir(), name)
		if err := writeCPIOFile(path, d.Config.Payload); err != nil {
			return err
		}
		defer os.Remove(path)
		overlays = append(overlays, filepath.Join(SharePath, name))
	}
	if err := dom0.WriteFile(ctx, base+".cfg", []byte(d.Config.xlConfig(base+".cpio", d.lab.options.CPUs)), 0o644); err != nil {
		return err
	}
	// One archive in memory: libxl takes one file, and reads it page by page. With a
	// reboot it is read again.
	_, err := dom0.Shell(ctx, fmt.Sprintf("cat %s %s > %s.cpio; xl create -q %[3]s.cfg", d.Config.baseImage(), strings.Join(overlays, " "), base))
	return err
}

// ID is the domain's number, which changes with a restore and with a reboot.
func (d *DomU) ID() int { return int(d.id.Load()) }

// Reconnect finds the domain again by its name, with a new number if it has one, and
// begins a new session with its agent. It is for after a restore.
func (d *DomU) Reconnect(ctx context.Context) error {
	// The line before must not take this one's bytes: a domain has one terminal.
	d.fail(errReconnecting)
	err := d.reconnect(ctx)
	if err != nil {
		err = fmt.Errorf("connect to domU %s: %w", d.Name, err)
		d.use(nil, nil)
		d.fail(err)
	}
	return err
}

var errReconnecting = errors.New("a new connection takes the place of this one")

func (d *DomU) reconnect(ctx context.Context) error {
	dom0 := d.lab.dom0
	id, err := d.lab.domID(ctx, d.Name)
	if err != nil {
		return err
	}
	d.id.Store(int64(id))
	tty, err := dom0.Run(ctx, AgentPath, "await-store", fmt.Sprintf("/local/domain/%d/console/tty", id))
	if err != nil {
		return err
	}
	s, err := dom0.open(context.WithoutCancel(ctx), wire.Request{Relay: strings.TrimSpace(tty)})
	if err != nil {
		return err
	}
	if _, err := wire.ReceiveJSON[wire.Started](s.Messages, wire.KindStarted); err != nil {
		return errors.Join(s.why(err), s.close())
	}
	dialing, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	seen := &console{}
	seen.crash = func(report string) {
		err := fmt.Errorf("domU %s crashed: %s", d.Name, report)
		stop(err)
		d.fail(err)
	}
	session, err := wire.Dial(dialing, s.conn, seen)
	if err != nil {
		if cause := context.Cause(dialing); cause != nil {
			err = cause
		}
		return fmt.Errorf("its agent does not answer: %w; its console says: %s", dom0.why(err), seen.last(5))
	}
	d.use(session, func() error {
		return fmt.Errorf("the connection to domU %s was lost; its console says: %s", d.Name, seen.last(5))
	})
	return nil
}

// Reboot has the guest reboot itself and waits for its agent.
func (d *DomU) Reboot(ctx context.Context) error {
	if _, err := d.Start(ctx, "reboot"); err != nil {
		return err
	}
	if _, err := d.lab.dom0.Run(ctx, AgentPath, "await-store", "--gone", fmt.Sprintf("/local/domain/%d", d.ID())); err != nil {
		return fmt.Errorf("reboot %s: %w", d.Name, err)
	}
	if err := d.awaitSuccessor(ctx); err != nil {
		return fmt.Errorf("reboot %s: %w", d.Name, err)
	}
	return d.Reconnect(ctx)
}

// awaitSuccessor waits until xl has built the rebooted domain, which then has a name.
func (d *DomU) awaitSuccessor(ctx context.Context) error {
	for {
		_, err := d.lab.domID(ctx, d.Name)
		var exit *ExitError
		if !errors.As(err, &exit) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(successorInterval):
		}
	}
}

// Destroy ends the domain at once, as xl destroy does. It may have ended already.
func (d *DomU) Destroy(ctx context.Context) error {
	l := d.lab
	l.mu.Lock()
	known := slices.Contains(l.domUs, d)
	l.domUs = slices.DeleteFunc(l.domUs, func(o *DomU) bool { return o == d })
	l.mu.Unlock()
	if !known {
		return nil
	}
	d.fail(errors.New("the domain was destroyed"))
	_, err := l.dom0.Shell(ctx, fmt.Sprintf("if xl domid %s >/dev/null 2>&1; then xl destroy %[1]s; fi; rm -f /tmp/%[1]s.*", d.Name))
	return err
}

// Vif is the name of a vif's interface in dom0.
func (d *DomU) Vif(devid int) string { return fmt.Sprintf("vif%d.%d", d.ID(), devid) }

// FrontendPath is a vif's directory in xenstore on the domU's side.
func (d *DomU) FrontendPath(devid int) string {
	return fmt.Sprintf("/local/domain/%d/device/vif/%d", d.ID(), devid)
}

// BackendPath is a vif's directory in xenstore on the other side, if that is dom0.
func (d *DomU) BackendPath(devid int) string {
	return fmt.Sprintf("/local/domain/0/backend/vif/%d/%d", d.ID(), devid)
}

// AwaitBackend waits until the backend's state, as xenstore has it, is one of states:
// 2 is InitWait, 4 Connected, 6 Closed.
func (d *DomU) AwaitBackend(ctx context.Context, devid int, states ...int) error {
	argv := []string{AgentPath, "await-store", d.BackendPath(devid) + "/state"}
	for _, s := range states {
		argv = append(argv, strconv.Itoa(s))
	}
	_, err := d.lab.dom0.Run(ctx, argv...)
	return err
}

// AwaitCarrier waits until the vif's interface in dom0 has a carrier, or has none.
func (d *DomU) AwaitCarrier(ctx context.Context, devid int, on bool) error {
	argv := []string{AgentPath, "await-carrier", d.Vif(devid)}
	if !on {
		argv = append(argv, "--off")
	}
	_, err := d.lab.dom0.Run(ctx, argv...)
	return err
}
