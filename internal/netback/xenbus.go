package netback

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
	"go.uber.org/zap"
)

// probe is the driver's meeting with the device: features, then InitWait, then the
// interface, then the hotplug script (netback_probe).
func (v *Vif) probe(ctx context.Context) error {
	v.disabled.Store(nil)
	v.state, v.shown = netif.StateInitialising, netif.StateUnknown
	// As of xenvif_alloc.
	v.takes, v.rxNotify = Takes{SG: true, CsumIPv4: true}, true
	v.mcast.on.Store(false)
	v.mcast.clear()
	store := v.backend.domain.Store()
	err := store.Update(ctx, func(tx xenstore.Operations) error {
		if _, err := tx.Read(ctx, v.dir+"/"+netif.KeyState); err != nil {
			return err // do not make a directory that has gone
		}
		if err := v.options.Features.announce(ctx, tx, v.dir); err != nil {
			return err
		}
		if v.options.RemoveOnClose {
			for key, value := range mirageNodes {
				if err := tx.Write(ctx, v.dir+"/"+key, value); err != nil {
					return err
				}
			}
		}
		for key, value := range v.options.Nodes {
			if err := tx.Write(ctx, v.dir+"/"+key, value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("announce features: %w", err)
	}
	if err := v.switchState(ctx, netif.StateInitWait); err != nil {
		return err
	}
	port, err := v.options.NewPort(v.info)
	if err != nil {
		v.fail(ctx, fmt.Errorf("creating interface: %w", err))
		return err
	}
	v.mu.Lock()
	v.port = port
	v.signal()
	v.mu.Unlock()
	v.script(ctx)
	return nil
}

// script plays the hotplug script, which says "connected" when it is done.
func (v *Vif) script(ctx context.Context) {
	delay := v.options.HotplugDelay
	if delay < 0 {
		return
	}
	time.AfterFunc(delay, func() {
		err := v.call(ctx, func(ctx context.Context) error {
			return v.backend.domain.Store().Update(ctx, func(tx xenstore.Operations) error {
				if _, err := tx.Read(ctx, v.dir+"/"+netif.KeyState); err != nil {
					return err
				}
				return tx.Write(ctx, v.dir+"/"+netif.KeyHotplugStatus, "connected")
			})
		})
		if err != nil && !errors.Is(err, ErrGone) && ctx.Err() == nil {
			v.log.Warn("write hotplug-status", zap.Error(err))
		}
	})
}

// remove takes the driver off the device. The state node stays as it is, since the
// driver can be bound again (netback_remove, allow_rebind).
func (v *Vif) remove(ctx context.Context) {
	v.hotplug = false
	err := v.inDirectory(ctx, func(tx xenstore.Operations) error {
		return tx.Remove(ctx, v.dir+"/"+netif.KeyHotplugStatus)
	})
	if err != nil && !errors.Is(err, xenstore.ErrNotFound) && ctx.Err() == nil {
		v.log.Warn("remove hotplug-status", zap.Error(err))
	}
	v.disconnect()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.port != nil {
		if err := v.port.Close(); err != nil {
			v.log.Warn("close port", zap.Error(err))
		}
		v.port = nil
	}
	v.signal()
}

// frontendChanged follows the frontend's state (frontend_changed).
func (v *Vif) frontendChanged(ctx context.Context) {
	value, err := v.backend.domain.Store().Read(ctx, v.front+"/"+netif.KeyState)
	state := netif.StateUnknown
	if err == nil {
		state, _ = netif.ParseState(strings.TrimSpace(value))
	} else if !errors.Is(err, xenstore.ErrNotFound) && !errors.Is(err, xenstore.ErrPermission) {
		v.log.Warn("read frontend's state", zap.Error(err))
		return
	}
	if v.options.RemoveOnClose && (v.removing || state == netif.StateClosing || state == netif.StateClosed) {
		v.removeOnClose(ctx, state)
		return
	}
	switch state {
	case netif.StateInitialising:
		if v.options.FollowsOnly && v.state == netif.StateConnected {
			return
		}
		v.setState(ctx, netif.StateInitWait)
	case netif.StateInitialised:
	case netif.StateConnected:
		if !v.faults.take(NeverConnect) {
			v.setState(ctx, netif.StateConnected)
		}
	case netif.StateReconfiguring:
		v.show(ctx, netif.StateReconfigured)
	case netif.StateClosing:
		v.setState(ctx, netif.StateClosing)
	case netif.StateClosed:
		v.setState(ctx, netif.StateClosed)
		online, err := v.backend.domain.Store().Read(ctx, v.dir+"/"+netif.KeyOnline)
		v.ended = err != nil || strings.TrimSpace(online) != "1"
	case netif.StateUnknown:
		v.setState(ctx, netif.StateClosed)
		v.ended = true
	default:
		v.fail(ctx, fmt.Errorf("saw state %d at frontend", state))
	}
}

// removeOnClose ends the vif, and its directory with it when the frontend closes: it is
// Closed before it looks again.
func (v *Vif) removeOnClose(ctx context.Context, state netif.State) {
	if !v.removing {
		v.removing = true
		v.disconnect()
		if err := v.show(ctx, netif.StateClosed); err != nil && ctx.Err() == nil {
			v.log.Warn("show state", zap.Error(err))
		}
		v.frontendChanged(ctx)
		return
	}
	if state != netif.StateClosing && state != netif.StateClosed {
		return // another frontend, which never gets anywhere
	}
	v.ended = true
	err := v.inDirectory(ctx, func(tx xenstore.Operations) error { return tx.Remove(ctx, v.dir) })
	if err != nil && !errors.Is(err, xenstore.ErrNotFound) && ctx.Err() == nil {
		v.log.Warn("remove the backend's directory", zap.Error(err))
	}
}

// setState walks to a state by the shortest path, and does on the way what belongs
// to each step (set_backend_state).
func (v *Vif) setState(ctx context.Context, to netif.State) {
	for v.state != to && ctx.Err() == nil {
		next := to
		switch v.state {
		case netif.StateInitialising:
			next = netif.StateInitWait
			if to == netif.StateClosed {
				next = netif.StateClosed
			}
		case netif.StateClosed:
			if to == netif.StateConnected {
				next = netif.StateInitWait
			}
		case netif.StateInitWait:
			if to == netif.StateConnected {
				v.connect(ctx)
			} else {
				next = netif.StateClosing
			}
		case netif.StateConnected:
			v.disconnect()
			next = netif.StateClosing
		case netif.StateClosing:
			next = netif.StateClosed
		}
		if err := v.switchState(ctx, next); err != nil && ctx.Err() == nil {
			v.log.Warn("switch state", zap.Stringer("state", next), zap.Error(err))
		}
	}
}

// switchState notes a new state, and shows it unless the hotplug script must come
// first.
func (v *Vif) switchState(ctx context.Context, s netif.State) error {
	v.state = s
	if v.hotplug {
		return nil
	}
	return v.show(ctx, s)
}

// show writes the state node, unless it was this driver's last word, or the device
// is gone (xenbus_switch_state).
func (v *Vif) show(ctx context.Context, s netif.State) error {
	if v.shown == s {
		return nil
	}
	err := v.inDirectory(ctx, func(tx xenstore.Operations) error {
		return tx.Write(ctx, v.dir+"/"+netif.KeyState, fmt.Sprint(int(s)))
	})
	if errors.Is(err, xenstore.ErrNotFound) {
		v.ended = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("show state %v: %w", s, err)
	}
	v.log.Debug("state", zap.Stringer("state", s))
	v.shown = s
	v.mu.Lock()
	defer v.mu.Unlock()
	v.states = append(v.states, s)
	v.signal()
	return nil
}

// inDirectory runs f in a transaction if the directory is still the one that this
// device was made from, which has what probe announced. One that the toolstack has made
// in its place is the next device's.
func (v *Vif) inDirectory(ctx context.Context, f func(tx xenstore.Operations) error) error {
	return v.backend.domain.Store().Update(ctx, func(tx xenstore.Operations) error {
		if _, err := tx.Read(ctx, v.dir+"/"+netif.KeyRxFlip); err != nil {
			return err
		}
		return f(tx)
	})
}

// fail is xenbus_dev_fatal: the reason goes to the error node, the state to Closing.
// What called it may well go on and show another state.
func (v *Vif) fail(ctx context.Context, reason error) {
	v.log.Error("connect", zap.Error(reason))
	home, node, _ := strings.Cut(v.dir, "/backend/")
	path := home + "/error/backend/" + node + "/error"
	if err := v.backend.domain.Store().Write(ctx, path, "22 "+reason.Error()); err != nil && ctx.Err() == nil {
		v.log.Warn("write error node", zap.Error(err))
	}
	if err := v.show(ctx, netif.StateClosing); err != nil && ctx.Err() == nil {
		v.log.Warn("show state", zap.Error(err))
	}
}

// hotplugChanged shows the state that waited for the hotplug script
// (hotplug_status_changed).
func (v *Vif) hotplugChanged(ctx context.Context) {
	if !v.hotplug {
		return
	}
	status, err := v.backend.domain.Store().Read(ctx, v.dir+"/"+netif.KeyHotplugStatus)
	if err != nil || status != "connected" {
		return
	}
	v.hotplug = false
	if err := v.show(ctx, v.state); err != nil && ctx.Err() == nil {
		v.log.Warn("show state", zap.Error(err))
	}
}
