package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Frontends, as results name them.
const (
	Kernel   = "xen-netfront"
	Ours     = "xnetfrontd"
	Baseline = "baseline" // another build of ours, or ours with other flags
)

// Build is how one of our frontends is run.
type Build struct {
	Path string   // in the guest; empty is the lab's daemon
	Args []string // behind "run --vif N"
}

// bed is what samples are taken on: a guest's vif, and who has it.
type bed struct {
	lab    *lab.Lab
	domU   *lab.DomU
	devid  int
	builds map[string]Build // by the frontend's name

	frontend string      // who has the vif; empty before the first
	daemon   *lab.Daemon // nil unless one of our frontends has it
	link     string      // the guest's interface
}

// network is that of vif 0, which dom0 is in from the start. Each vif has one of its own.
const network = 77

func (b *bed) dom0() string  { return fmt.Sprintf("10.%d.0.1", network+b.devid) }
func (b *bed) guest() string { return fmt.Sprintf("10.%d.0.2", network+b.devid) }

// serve starts the other ends of the traffic, which end with ctx.
func serve(ctx context.Context, l *lab.Lab) error {
	for _, s := range []struct {
		argv  []string
		ready string
	}{
		{[]string{"iperf3", "--server", "--forceflush"}, "listening"},
		{[]string{lab.AgentPath, "answer"}, "ready"},
	} {
		p, err := l.Dom0().Start(ctx, s.argv...)
		if err != nil {
			return err
		}
		if err := p.AwaitStdout(ctx, s.ready); err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(p.Stderr()))
		}
	}
	return nil
}

// give gives the vif to a frontend, and waits until packets pass.
func (b *bed) give(ctx context.Context, frontend string) error {
	if b.frontend == frontend {
		return nil
	}
	begin := b.beginKernel
	if frontend != Kernel {
		begin = func(ctx context.Context) error { return b.beginOurs(ctx, b.builds[frontend]) }
	}
	if err := begin(ctx); err != nil {
		return fmt.Errorf("give the vif to %s: %w", frontend, err)
	}
	b.frontend = frontend
	if err := b.connect(ctx); err != nil {
		return fmt.Errorf("connect %s: %w", frontend, err)
	}
	return nil
}

func (b *bed) beginOurs(ctx context.Context, build Build) error {
	if err := errors.Join(b.stopDaemon(ctx), b.takeFromKernel(ctx)); err != nil {
		return err
	}
	args := append([]string{"run", "--vif", fmt.Sprint(b.devid)}, build.Args...)
	var err error
	b.daemon, err = b.domU.StartBuild(ctx, build.Path, args...)
	b.link = fmt.Sprintf("xnf%d", b.devid)
	return err
}

func (b *bed) takeFromKernel(ctx context.Context) error {
	_, err := b.domU.Run(ctx, "xnetfrontd", "prepare", "--vif", fmt.Sprint(b.devid))
	return err
}

func (b *bed) beginKernel(ctx context.Context) error {
	if err := b.stopDaemon(ctx); err != nil {
		return err
	}
	if _, err := b.domU.Run(ctx, "xnetfrontd", "release", "--vif", fmt.Sprint(b.devid)); err != nil {
		return err
	}
	out, err := b.domU.Shell(ctx, fmt.Sprintf("ls /sys/bus/xen/devices/vif-%d/net", b.devid))
	b.link = strings.TrimSpace(out)
	return err
}

func (b *bed) stopDaemon(ctx context.Context) error {
	if b.daemon == nil {
		return nil
	}
	err := b.daemon.Stop(ctx)
	b.daemon = nil
	return err
}

// connect gives both ends their addresses and waits for an answer from dom0.
func (b *bed) connect(ctx context.Context) error {
	_, err := b.domU.Shell(ctx, fmt.Sprintf("ip link set %[1]s up; ip addr replace %[2]s/24 dev %[1]s", b.link, b.guest()))
	if err != nil {
		return err
	}
	if _, err := b.lab.Dom0().Shell(ctx, fmt.Sprintf("ip addr replace %s/24 dev %s", b.dom0(), lab.Bridge)); err != nil {
		return err
	}
	const connected = 4
	if err := b.domU.AwaitBackend(ctx, b.devid, connected); err != nil {
		return err
	}
	if err := b.domU.AwaitCarrier(ctx, b.devid, true); err != nil {
		return err
	}
	// The first packets may be lost to address resolution.
	_, err = b.domU.Shell(ctx, "until ping -n -q -c 1 -W 1 "+b.dom0()+" >/dev/null; do :; done")
	return err
}

// leave leaves the vif to nobody, as it is after the guest's boot.
func (b *bed) leave(ctx context.Context) error {
	if b.frontend == "" {
		return nil
	}
	errs := []error{b.setOffloads(ctx, true), b.stopDaemon(ctx)}
	if b.frontend == Kernel {
		errs = append(errs, b.takeFromKernel(ctx))
	}
	b.frontend = ""
	return errors.Join(errs...)
}

// unload unloads the kernel's driver, so that it does not take vifs that are plugged
// later. It has taken those that nobody had when it came.
func unload(ctx context.Context, domU *lab.DomU) error {
	out, err := domU.Shell(ctx, "ls /sys/bus/xen/drivers/vif 2>/dev/null || true")
	if err != nil {
		return err
	}
	errs := []error{}
	for _, name := range strings.Fields(out) {
		if devid, is := strings.CutPrefix(name, "vif-"); is {
			_, err := domU.Run(ctx, "xnetfrontd", "prepare", "--vif", devid)
			errs = append(errs, err)
		}
	}
	_, err = domU.Run(ctx, "modprobe", "-r", "xen-netfront")
	return errors.Join(append(errs, err)...)
}

// order is the order of the frontends in a pair of samples.
func order(frontends []string, backwards bool) []string {
	o := slices.Clone(frontends)
	if backwards {
		slices.Reverse(o)
	}
	return o
}
