package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// releaseLimit is how long a backend may take to follow the vif through its states,
// and again to connect with the kernel's driver.
const releaseLimit = 20 * time.Second

type releaseCmd struct {
	xenFlags
	holdFlags
	Vif int `required:"" placeholder:"N" help:"Number of the vif to give back."`
}

func (c *releaseCmd) Help() string {
	return `Gives a vif that no daemon serves back to the kernel's xen-netfront, whatever state a
daemon that was killed has left it in, and waits until the kernel is connected. The
module is loaded if it is not, without taking any other vif. A vif that is still in
the configuration is taken again with the next start of the daemon.`
}

func (c *releaseCmd) Run(s streams) (err error) {
	if c.Vif < 0 || c.Vif > config.MaxDevID {
		return usagef("--vif %d: expected a whole number from 0 to %d", c.Vif, config.MaxDevID)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	sys := newSystem()
	r := releaser{devid: c.Vif, lockDir: c.lockDir(), limit: releaseLimit, out: s.out, holder: c.socket(c.embedded())}
	if c.embedded() {
		guest, err := c.open(sys)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, guest.Close()) }()
		r.store = guest.Store
	} else {
		// The store alone: neither grants nor event channels are needed.
		store, err := xenstore.Open()
		if err != nil {
			return sys.explainXen(err)
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		r.store, r.bus = store, newKernelBus(sys)
	}
	if err := r.release(ctx); err != nil {
		return fmt.Errorf("vif %d: %w", c.Vif, err)
	}
	return nil
}

// releaser gives one vif back.
type releaser struct {
	devid   int
	lockDir string
	limit   time.Duration
	store   xen.Store
	bus     *kernelBus // nil where there is no kernel to give it to
	holder  string     // socket; empty: none has anything of it
	out     io.Writer
}

func (r *releaser) say(format string, args ...any) {
	fmt.Fprintf(r.out, "vif %d: %s\n", r.devid, printable.Line(fmt.Sprintf(format, args...)))
}

func (r *releaser) release(ctx context.Context) (err error) {
	if r.bus != nil {
		driver, err := r.bus.owner(r.devid)
		if err != nil {
			return err
		}
		if driver != "" {
			return r.awaitKernel(ctx, "the kernel's %s has it already, connected%s")
		}
	}
	if who, taken := lockOwner(r.lockDir, r.devid); taken {
		return fmt.Errorf("a daemon serves it, %s: stop that first (systemctl stop xnetfrontd), or take the vif out of its configuration and restart it", who)
	}
	// Held to the end, so that no daemon starts in between.
	lock, err := lockVif(r.lockDir, r.devid)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	if r.bus != nil {
		reserved, err := r.bus.reserve(ctx, r.devid)
		if err != nil {
			return err
		}
		defer reserved()
	}
	gone := r.free(ctx)
	if gone != nil && !errors.Is(gone, netfront.ErrGone) {
		return gone
	}
	if r.holder != "" {
		if err := discardHeld(ctx, r.holder, r.store, r.devid); err != nil {
			return fmt.Errorf("what its daemon left with the holder: %w", err)
		}
	}
	if gone != nil || r.bus == nil {
		return gone
	}
	loaded, err := r.bus.load(ctx)
	if err != nil {
		return err
	}
	if loaded {
		fmt.Fprintf(r.out, "module %s: loaded\n", kernelModule)
	}
	if !r.bus.has(r.devid) {
		return fmt.Errorf("the kernel does not know it: there is no %s", r.bus.device(r.devid))
	}
	if err := r.bus.bind(ctx, r.devid); err != nil {
		return err
	}
	return r.awaitKernel(ctx, "the kernel's %s has it, connected%s")
}

// free walks the vif to where any frontend can take it.
func (r *releaser) free(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	var window netfront.Window
	if r.bus != nil {
		window = func(do func() error) error { return r.bus.withoutProbing(limited, do) }
	}
	err := netfront.Release(limited, r.store, r.devid, window)
	switch {
	case errors.Is(err, netfront.ErrNoVif):
		return fmt.Errorf("%w: %s", netfront.ErrNoVif, existing(ctx, &xen.Guest{Store: r.store}))
	case errors.Is(err, netfront.ErrGone):
		return fmt.Errorf("%w; nothing of a daemon's is left, and the toolstack has to attach the vif anew (xl network-detach, xl network-attach)", err)
	case errors.Is(err, netfront.ErrSilent) && r.bus != nil:
		return fmt.Errorf("%w; it is not given to the kernel, which would wait for that without an end; run this again when the backend is back", err)
	case err != nil:
		return err
	}
	r.say("free, its backend waits for a frontend")
	return nil
}

// awaitKernel waits until the kernel is connected, and says so.
func (r *releaser) awaitKernel(ctx context.Context, format string) error {
	limited, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	if err := netfront.AwaitConnected(limited, r.store, r.devid); err != nil {
		return fmt.Errorf("the kernel's %s has it, but is not connected: %w", kernelModule, err)
	}
	link := r.bus.link(r.devid)
	if link != "" {
		link = ", as " + link
	}
	r.say(format, kernelModule, link)
	return nil
}
