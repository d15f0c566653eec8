package netback

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// closeTime is how long the end of a vif may take in xenstore when the backend is
// told to stop.
const closeTime = time.Second

// follow is the life of the vif: its driver's probe, then everything that xenstore
// and callers bring, then its removal.
func (v *Vif) follow(ctx context.Context) error {
	store := v.backend.domain.Store()
	if err := v.probe(ctx); err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
		defer cancel()
		v.remove(last)
	}()
	state, err := store.Watch(ctx, v.front+"/"+netif.KeyState)
	if err != nil {
		return fmt.Errorf("watch frontend: %w", err)
	}
	defer state.Close()
	mcast, err := store.Watch(ctx, v.front+"/"+netif.KeyRequestMcast)
	if err != nil {
		return fmt.Errorf("watch frontend: %w", err)
	}
	defer mcast.Close()
	for !v.ended {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-state.Events():
			if !ok {
				return fmt.Errorf("watch frontend: %w", state.Err())
			}
			if v.options.AnswerAfter > 0 {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(v.options.AnswerAfter):
				}
			}
			v.frontendChanged(ctx)
		case _, ok := <-mcast.Events():
			if !ok {
				return fmt.Errorf("watch frontend: %w", mcast.Err())
			}
			on, err := store.Read(ctx, v.front+"/"+netif.KeyRequestMcast)
			v.mcast.on.Store(err == nil && on != "0")
		case <-v.pokes:
			v.directoryChanged(ctx)
		case f := <-v.calls:
			f(ctx)
		}
	}
	return nil
}

// poke tells the vif that something below its directory has changed.
func (v *Vif) poke() {
	select {
	case v.pokes <- struct{}{}:
	default: // it is to look already
	}
}

// directoryChanged looks at what may have changed in the backend's directory. If
// the directory is gone, or another one is in its place, so is the device.
func (v *Vif) directoryChanged(ctx context.Context) {
	_, err := v.backend.domain.Store().Read(ctx, v.dir+"/"+netif.KeyRxFlip)
	if errors.Is(err, xenstore.ErrNotFound) {
		v.ended = true
		return
	}
	v.hotplugChanged(ctx)
	v.rateChanged(ctx)
}
