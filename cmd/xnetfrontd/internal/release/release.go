// Package release gives a vif that no daemon serves back to the kernel's driver.
package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/guestvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/heldvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// DefaultLimit is how long a backend may take to follow the vif through its states, and
// again to connect with the kernel's driver.
const DefaultLimit = 20 * time.Second

// Releaser gives one vif back.
type Releaser struct {
	DevID   int
	LockDir string        // of the daemons' locks
	Limit   time.Duration // as [DefaultLimit]
	Store   xen.Store
	Kernel  *vifowner.Kernel // nil: there is no kernel with a driver for it
	Holder  string           // socket of a holder, which may have something of the vif; empty: there is none
	Out     io.Writer        // gets a line for each step
}

func (r *Releaser) say(format string, args ...any) {
	fmt.Fprintf(r.Out, "vif %d: %s\n", r.DevID, printable.Line(fmt.Sprintf(format, args...)))
}

// Release frees the vif, gives it to the kernel's driver, and waits until that is connected.
func (r *Releaser) Release(ctx context.Context) (err error) {
	if r.Kernel != nil {
		driver, err := r.Kernel.Driver(r.DevID)
		if err != nil {
			return err
		}
		if driver != "" {
			return r.awaitKernel(ctx, "the kernel's %s has it already, connected%s")
		}
	}
	if who, taken := vifowner.Owner(r.LockDir, r.DevID); taken {
		return fmt.Errorf("a daemon serves it, %s: stop that first (systemctl stop xnetfrontd), or take the vif out of its configuration and restart it", who)
	}
	// The lock is held to the end, so that no daemon takes the vif in between.
	lock, err := vifowner.Take(r.LockDir, r.DevID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	if r.Kernel != nil {
		reserved, err := r.Kernel.Reserve(ctx, r.DevID)
		if err != nil {
			return err
		}
		defer reserved()
	}
	gone := r.free(ctx)
	if gone != nil && !errors.Is(gone, netfront.ErrGone) {
		return gone
	}
	if r.Holder != "" {
		if err := heldvif.Discard(ctx, r.Holder, r.Store, r.DevID); err != nil {
			return fmt.Errorf("what its daemon left with the holder: %w", err)
		}
	}
	if gone != nil || r.Kernel == nil {
		return gone
	}
	loaded, err := r.Kernel.Load(ctx)
	if err != nil {
		return err
	}
	if loaded {
		fmt.Fprintf(r.Out, "module %s: loaded\n", vifowner.Module)
	}
	if !r.Kernel.Has(r.DevID) {
		return fmt.Errorf("the kernel does not know it: there is no %s", r.Kernel.Device(r.DevID))
	}
	if err := r.Kernel.Bind(ctx, r.DevID); err != nil {
		return err
	}
	return r.awaitKernel(ctx, "the kernel's %s has it, connected%s")
}

// free walks the vif to the state in which any frontend can take it.
func (r *Releaser) free(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, r.Limit)
	defer cancel()
	var window netfront.Window
	if r.Kernel != nil {
		window = func(do func() error) error { return r.Kernel.WithoutProbing(limited, do) }
	}
	err := netfront.Release(limited, r.Store, r.DevID, window)
	switch {
	case errors.Is(err, netfront.ErrNoVif):
		return fmt.Errorf("%w: %s", netfront.ErrNoVif, guestvif.Existing(ctx, r.Store))
	case errors.Is(err, netfront.ErrGone):
		return fmt.Errorf("%w; nothing of a daemon's is left, and the toolstack has to attach the vif anew (xl network-detach, xl network-attach)", err)
	case errors.Is(err, netfront.ErrSilent) && r.Kernel != nil:
		return fmt.Errorf("%w; it is not given to the kernel, which would wait for that without an end; run this again when the backend is back", err)
	case err != nil:
		return err
	}
	r.say("free, its backend waits for a frontend")
	return nil
}

// awaitKernel waits until the kernel is connected, and prints that by format.
func (r *Releaser) awaitKernel(ctx context.Context, format string) error {
	limited, cancel := context.WithTimeout(ctx, r.Limit)
	defer cancel()
	if err := netfront.AwaitConnected(limited, r.Store, r.DevID); err != nil {
		return fmt.Errorf("the kernel's %s has it, but is not connected: %w", vifowner.Module, err)
	}
	link := r.Kernel.Link(r.DevID)
	if link != "" {
		link = ", as " + link
	}
	r.say(format, vifowner.Module, link)
	return nil
}
