package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/wire"
)

// Options are how the lab boots.
type Options struct {
	Images     string // folder with the images, see BuildImages
	RunDir     string // logs go here; made if missing
	Agent      string // the agent's static binary
	Daemon     string // the daemon's static binary
	CPUs       int    // QEMU's: 1, or 2, which is 0 too: one for dom0 and one for all other domains
	MemMiB     int    // QEMU's memory; 0 is MemMiB's
	Dom0MemMiB int    // dom0's share; 0 is what its kernel needs
	Store      string // dom0's xenstored: StoreC, which is "" too, or StoreOCaml
	GuestType  string // of domUs that do not say one: TypePV, which is "" too, or TypePVH
	// Payload maps paths in dom0 to files of the host. They are in its initramfs.
	Payload  map[string]string
	XenArgs  string // added to Xen's command line
	Dom0Args string // added to dom0's kernel command line
}

const (
	defaultCPUs = 2
	// guestsMemMiB is what Xen and all guests but dom0 have together.
	guestsMemMiB = 1280
	// runSpace is what a boot writes before anybody does anything.
	runSpace = 512 << 20
)

// MemMiB is the memory that QEMU gets if dom0 gets so much of it.
func MemMiB(dom0MiB int) int { return guestsMemMiB + dom0MiB }

// Lab is a running Xen.
type Lab struct {
	options Options
	dom0    *Guest
	qemu    *qemu
	serial  *console
	logs    []*os.File
	stop    func() bool // ends the link between Boot's context and QEMU

	mu    sync.Mutex
	domUs []*DomU // not yet destroyed, in the order of their creation
	made  int     // domUs ever created, for their MACs
	disks int     // of Debian that were given away
}

// guestOverlay is in dom0: what every domU's initramfs gets.
const guestOverlay = "/lab/guest.cpio"

// Boot starts Xen and waits for dom0. QEMU ends with ctx, and with Close.
func Boot(ctx context.Context, o Options) (*Lab, error) {
	if o.CPUs == 0 {
		o.CPUs = defaultCPUs
	}
	built, err := ReadBuilt(o.Images)
	if err != nil {
		return nil, err
	}
	if o.Dom0MemMiB == 0 {
		o.Dom0MemMiB = built.Dom0MemMiB
	}
	if o.MemMiB == 0 {
		o.MemMiB = MemMiB(o.Dom0MemMiB)
	}
	if o.Store == StoreOCaml {
		o.Dom0Args += " XENSTORED=" + StoreOCaml // see images/dom0/init
	}
	if o.GuestType == "" {
		o.GuestType = TypePV
	}
	l := &Lab{options: o, dom0: &Guest{name: "dom0"}}
	if err := l.boot(ctx); err != nil {
		if last := l.serialTail(); last != "" {
			err = fmt.Errorf("%w; the serial port's last lines:\n%s", err, last)
		}
		return nil, errors.Join(fmt.Errorf("boot Xen: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) serialTail() string {
	if l.serial == nil {
		return ""
	}
	return l.serial.last(15)
}

func (l *Lab) boot(ctx context.Context) error {
	share := filepath.Join(l.options.RunDir, "share")
	if err := os.MkdirAll(share, 0o755); err != nil {
		return err
	}
	if err := needSpace(l.options.RunDir, runSpace); err != nil {
		return err
	}
	initrd := filepath.Join(l.options.RunDir, "dom0.cpio")
	if err := l.writeInitrd(initrd); err != nil {
		return err
	}
	defer os.Remove(initrd) // QEMU has read it by then
	serial, err := l.log("serial.log")
	if err != nil {
		return err
	}
	log, err := l.log("qemu.log")
	if err != nil {
		return err
	}
	l.serial = &console{log: serial, crash: func(report string) { l.dom0.fail(fmt.Errorf("dom0 or Xen crashed: %s", report)) }}
	l.qemu, err = startQEMU(filepath.Join(l.options.Images, "qemu", "run"), qemuArgs(l.options, initrd, share), l.serial, log)
	if err != nil {
		return err
	}
	l.stop = context.AfterFunc(ctx, l.qemu.kill)
	go func() {
		<-l.qemu.done
		l.dom0.fail(fmt.Errorf("QEMU ended: %v, see %s", l.qemu.err, log.Name()))
	}()
	session, err := wire.Dial(ctx, l.qemu.port, &console{})
	if err != nil {
		return l.dom0.why(err)
	}
	l.dom0.use(session, func() error {
		return fmt.Errorf("the connection to dom0 was lost; the serial port's last lines:\n%s", l.serial.last(15))
	})
	return nil
}

func (l *Lab) log(name string) (*os.File, error) {
	f, err := os.Create(filepath.Join(l.options.RunDir, name))
	if err == nil {
		l.logs = append(l.logs, f)
	}
	return f, err
}

// writeInitrd writes dom0's initramfs: the image, and behind it what the lab adds.
func (l *Lab) writeInitrd(path string) (err error) {
	dir, err := os.MkdirTemp(l.options.RunDir, "initrd-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	guest, own := filepath.Join(dir, "guest.cpio"), filepath.Join(dir, "own.cpio")
	if err := writeCPIOFile(guest, map[string]string{AgentPath: l.options.Agent, DaemonPath: l.options.Daemon}); err != nil {
		return err
	}
	files := map[string]string{AgentPath: l.options.Agent, guestOverlay: guest}
	maps.Copy(files, l.options.Payload)
	if err := writeCPIOFile(own, files); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(concatenate(f, filepath.Join(l.options.Images, "dom0.cpio"), own), f.Close())
}

func writeCPIOFile(path string, files map[string]string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(writeCPIO(f, files), f.Close())
}

// Close ends QEMU at once, with every guest in it.
func (l *Lab) Close() error {
	var errs []error
	if l.stop != nil {
		l.stop()
	}
	if l.qemu != nil {
		l.dom0.fail(errors.New("the lab is closed"))
		l.qemu.kill()
		_ = l.qemu.port.Close() // closed already if there was a session
	}
	for _, f := range l.logs {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Dom0 is the guest that has the toolstack and the backends.
func (l *Lab) Dom0() *Guest { return l.dom0 }

// RunDir is where this run's logs are.
func (l *Lab) RunDir() string { return l.options.RunDir }

// ShareDir is the folder that dom0 has at SharePath.
func (l *Lab) ShareDir() string { return filepath.Join(l.options.RunDir, "share") }

// DomUs are the guests that were created and not destroyed, the oldest first.
func (l *Lab) DomUs() []*DomU {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*DomU(nil), l.domUs...)
}

// domID asks the toolstack for a domain's number.
func (l *Lab) domID(ctx context.Context, name string) (id int, err error) {
	out, err := l.dom0.Run(ctx, "xl", "domid", name)
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Sscan(strings.TrimSpace(out), &id); err != nil {
		return 0, fmt.Errorf("xl domid %s says %q: %w", name, out, err)
	}
	return id, nil
}
