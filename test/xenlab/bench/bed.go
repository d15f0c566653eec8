package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// Frontends, as results name them.
const (
	Kernel = "xen-netfront"
	Ours   = "xnetfrontd"
)

const (
	guestIPv4 = "10.77.0.2"
	devid     = 0
	ourLink   = "xnf0"
)

// bed is what samples are taken on: a guest's vif, and who has it.
type bed struct {
	lab  *lab.Lab
	domU *lab.DomU

	frontend string      // who has the vif; empty before the first
	daemon   *lab.Daemon // nil unless xnetfrontd has it
	link     string      // the guest's interface
}

// open starts the other end of the traffic, which ends with ctx.
func open(ctx context.Context, l *lab.Lab, domU *lab.DomU) (*bed, error) {
	if err := domU.InstallDaemon(ctx); err != nil {
		return nil, err
	}
	server, err := l.Dom0().Start(ctx, "iperf3", "--server", "--forceflush")
	if err != nil {
		return nil, err
	}
	if err := server.AwaitStdout(ctx, "listening"); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(server.Stderr()))
	}
	return &bed{lab: l, domU: domU}, nil
}

// give gives the vif to a frontend, and waits until packets pass.
func (b *bed) give(ctx context.Context, frontend string) error {
	if b.frontend == frontend {
		return nil
	}
	begin := b.beginKernel
	if frontend == Ours {
		begin = b.beginOurs
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

func (b *bed) beginOurs(ctx context.Context) error {
	if err := b.takeFromKernel(ctx); err != nil {
		return err
	}
	var err error
	b.daemon, err = b.domU.StartDaemon(ctx, "run", "--vif", fmt.Sprint(devid))
	b.link = ourLink
	return err
}

func (b *bed) takeFromKernel(ctx context.Context) error {
	_, err := b.domU.Run(ctx, "xnetfrontd", "prepare", "--vif", fmt.Sprint(devid))
	return err
}

func (b *bed) beginKernel(ctx context.Context) error {
	if err := b.stopDaemon(ctx); err != nil {
		return err
	}
	if _, err := b.domU.Run(ctx, "xnetfrontd", "release", "--vif", fmt.Sprint(devid)); err != nil {
		return err
	}
	out, err := b.domU.Shell(ctx, fmt.Sprintf("ls /sys/bus/xen/devices/vif-%d/net", devid))
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

// connect gives the guest's interface its address and waits for an answer from dom0.
func (b *bed) connect(ctx context.Context) error {
	_, err := b.domU.Shell(ctx, fmt.Sprintf("ip link set %[1]s up; ip addr replace %[2]s/24 dev %[1]s", b.link, guestIPv4))
	if err != nil {
		return err
	}
	const connected = 4
	if err := b.domU.AwaitBackend(ctx, devid, connected); err != nil {
		return err
	}
	if err := b.domU.AwaitCarrier(ctx, devid, true); err != nil {
		return err
	}
	// The first packets may be lost to address resolution.
	_, err = b.domU.Shell(ctx, "until ping -n -q -c 1 -W 1 "+lab.Dom0IPv4+" >/dev/null; do :; done")
	return err
}

// leave leaves the vif to nobody, as it is after the guest's boot, and unloads the
// kernel's driver, so that it does not take vifs that are plugged later.
func (b *bed) leave(ctx context.Context) error {
	errs := []error{b.setOffloads(ctx, true), b.stopDaemon(ctx)}
	if b.frontend == Kernel {
		errs = append(errs, b.takeFromKernel(ctx))
	}
	_, err := b.domU.Run(ctx, "modprobe", "-r", "xen-netfront")
	return errors.Join(append(errs, err)...)
}
