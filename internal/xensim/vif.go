package xensim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strconv"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// VifConfig is a network device as in a guest's configuration (xl-network-configuration).
type VifConfig struct {
	Frontend xen.DomID
	Backend  xen.DomID
	DevID    int
	MAC      net.HardwareAddr
	MTU      int    // bytes; 0: 1500
	Rate     string // "bytes,microseconds"; empty: no limit
	Bridge   string
	VifName  string // name of the backend's interface; empty: vifX.Y
	// Script is what sets the backend's interface up and then writes hotplug-status
	// "connected". Without one the toolstack writes it.
	Script string
	// Untrusted tells the frontend not to trust this backend (trusted=0).
	Untrusted bool
}

// AttachVif gives a domain a network device (xl network-attach): a directory for the
// frontend and one for the backend, both in state Initialising, in one transaction.
// It fails with [fs.ErrExist] if the domain has a device of this number.
func AttachVif(ctx context.Context, store xen.Store, cfg VifConfig) error {
	err := CreateDomain(ctx, store, cfg.Frontend)
	if err == nil {
		err = CreateDomain(ctx, store, cfg.Backend)
	}
	if err == nil {
		err = store.Update(ctx, func(tx xenstore.Operations) error { return cfg.write(ctx, tx) })
	}
	if err != nil {
		return fmt.Errorf("attach vif %d to domain %d: %w", cfg.DevID, cfg.Frontend, err)
	}
	return nil
}

func (cfg *VifConfig) write(ctx context.Context, tx xenstore.Operations) error {
	front := FrontendPath(cfg.Frontend, cfg.DevID)
	back := BackendPath(cfg.Backend, cfg.Frontend, cfg.DevID)
	record := libxlPath(cfg.Frontend, cfg.DevID)
	if _, err := tx.Read(ctx, record+"/backend"); !errors.Is(err, xenstore.ErrNotFound) {
		if err == nil {
			err = fs.ErrExist
		}
		return err
	}
	frontID, backID := uint16(cfg.Frontend), uint16(cfg.Backend)
	frontOwns := []xenstore.Permission{{Domain: frontID}, {Domain: backID, Read: true}}
	backOwns := []xenstore.Permission{{Domain: backID}, {Domain: frontID, Read: true}}
	devID := strconv.Itoa(cfg.DevID)
	initialising := strconv.Itoa(int(netif.StateInitialising))
	trusted, hotplug, mtu := "1", "connected", cfg.MTU
	if cfg.Untrusted {
		trusted = "0"
	}
	if cfg.Script != "" {
		hotplug = ""
	}
	if mtu == 0 {
		mtu = 1500
	}
	w := writer{ctx: ctx, store: tx}
	w.dir(record, []xenstore.Permission{{Domain: 0}})
	w.node(record, nil, "frontend", front)
	w.node(record, nil, "backend", back)

	w.remove(front)
	w.dir(front, frontOwns)
	w.node(front, frontOwns, netif.KeyBackend, back)
	w.node(front, frontOwns, netif.KeyBackendID, strconv.Itoa(int(cfg.Backend)))
	w.node(front, frontOwns, netif.KeyState, initialising)
	w.node(front, frontOwns, netif.KeyHandle, devID)
	w.node(front, frontOwns, netif.KeyTrusted, trusted)
	w.node(front, frontOwns, netif.KeyMAC, cfg.MAC.String())
	w.node(front, backOwns, netif.KeyMTU, strconv.Itoa(mtu)) // for the frontend to read only

	w.remove(back)
	w.dir(back, backOwns)
	w.node(back, backOwns, netif.KeyFrontend, front)
	w.node(back, backOwns, netif.KeyFrontendID, strconv.Itoa(int(cfg.Frontend)))
	w.node(back, backOwns, netif.KeyOnline, "1")
	w.node(back, backOwns, netif.KeyState, initialising)
	w.node(back, backOwns, "script", cfg.Script)
	w.optional(back, backOwns, "vifname", cfg.VifName)
	w.node(back, backOwns, netif.KeyMAC, cfg.MAC.String())
	w.optional(back, backOwns, "bridge", cfg.Bridge)
	w.node(back, backOwns, netif.KeyHandle, devID)
	w.node(back, backOwns, "type", "vif")
	w.node(back, backOwns, netif.KeyMTU, strconv.Itoa(mtu))
	w.optional(back, backOwns, netif.KeyRate, cfg.Rate)
	w.node(back, backOwns, netif.KeyHotplugStatus, hotplug)
	return w.err
}

// ErrDetachForced says that a backend did not close a device in time, so that its
// directories were removed under it.
var ErrDetachForced = errors.New("backend did not close the device: removed by force")

// detachWait is libxl's LIBXL_DESTROY_TIMEOUT.
const detachWait = 10 * time.Second

// DetachVif takes a network device away from a domain (xl network-detach): it tells
// the backend to close it (online 0, state Closing), waits for wait, or 10 s if that
// is 0, for the backend to be Closed, and removes both directories, in any case. If
// the backend did not close it the error is [ErrDetachForced]; if there is no such
// device [xenstore.ErrNotFound].
func DetachVif(ctx context.Context, store xen.Store, frontend xen.DomID, devID int, wait time.Duration) error {
	if err := detach(ctx, store, frontend, devID, wait); err != nil {
		return fmt.Errorf("detach vif %d from domain %d: %w", devID, frontend, err)
	}
	return nil
}

func detach(ctx context.Context, store xen.Store, frontend xen.DomID, devID int, wait time.Duration) error {
	record := libxlPath(frontend, devID)
	back, err := store.Read(ctx, record+"/backend")
	if err != nil {
		return err
	}
	if wait == 0 {
		wait = detachWait
	}
	waitCtx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	closeErr := closeBackend(waitCtx, store, back)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(closeErr, context.DeadlineExceeded) {
		closeErr = ErrDetachForced
	}
	err = store.Update(ctx, func(tx xenstore.Operations) error {
		for _, dir := range []string{FrontendPath(frontend, devID), back, record} {
			if err := cleanUp(ctx, tx, dir); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(closeErr, err)
}

// closeBackend asks the backend to close and waits until it has, or is gone.
func closeBackend(ctx context.Context, store xen.Store, back string) error {
	watch, err := store.Watch(ctx, back+"/"+netif.KeyState)
	if err != nil {
		return err
	}
	defer watch.Close()
	gone := false
	err = store.Update(ctx, func(tx xenstore.Operations) error {
		state, err := tx.Read(ctx, back+"/"+netif.KeyState)
		gone = errors.Is(err, xenstore.ErrNotFound) || state == strconv.Itoa(int(netif.StateClosed))
		if gone {
			return nil
		}
		if err != nil {
			return err
		}
		w := writer{ctx: ctx, store: tx}
		w.node(back, nil, netif.KeyOnline, "0")
		w.node(back, nil, netif.KeyState, strconv.Itoa(int(netif.StateClosing)))
		return w.err
	})
	for err == nil && !gone {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok := <-watch.Events():
			if !ok {
				return watch.Err()
			}
		}
		var state string
		state, err = store.Read(ctx, back+"/"+netif.KeyState)
		if errors.Is(err, xenstore.ErrNotFound) {
			return nil
		}
		gone = state == strconv.Itoa(int(netif.StateClosed))
	}
	return err
}

// cleanUp removes dir, and what is empty above it (libxl__xs_path_cleanup).
func cleanUp(ctx context.Context, tx xenstore.Operations, dir string) error {
	for {
		if err := tx.Remove(ctx, dir); err != nil && !errors.Is(err, xenstore.ErrNotFound) {
			return err
		}
		dir = path.Dir(dir)
		if dir == "/" {
			return nil
		}
		left, err := tx.Directory(ctx, dir)
		if err != nil && !errors.Is(err, xenstore.ErrNotFound) {
			return err
		}
		if len(left) > 0 {
			return nil
		}
	}
}
