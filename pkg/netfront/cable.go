package netfront

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// XAPI can disable a vif while it stays attached: it writes disconnect=1 into the
// frontend's directory (VIF.carrier, or the locking mode "disabled"; set_carrier and
// set_locking_mode of xenopsd), and its host drops the vif's frames. The rings stay.
// For the guest the cable is pulled out: its TAP loses the carrier, so that routes over
// another NIC are taken. libxl has no such node.

// isDisabled tells whether the toolstack has disabled the vif. It fails with errMoved when
// the vif's directory is gone, which says nothing of the kind.
func (b *bus) isDisabled(ctx context.Context) (bool, error) {
	v, err := b.store.Read(ctx, b.dir+"/"+netif.KeyDisconnect)
	if errors.Is(err, xenstore.ErrNotFound) {
		return false, b.moved(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("whether the vif is disabled: %w", err)
	}
	return strings.TrimSpace(v) == "1", nil
}

// noteDisabled looks whether the toolstack has disabled the vif, and says when that has
// changed. It leaves the carrier to whoever calls it.
func (d *Device) noteDisabled(ctx context.Context, b *bus) (changed bool, err error) {
	disabled, err := b.isDisabled(ctx)
	if err != nil || disabled == d.disabled {
		return false, err
	}
	d.setDisabled(disabled)
	if disabled {
		d.log.Warn("the toolstack has disabled the vif: no carrier", event(EventDisabled))
	} else {
		d.log.Info("the toolstack has enabled the vif", event(EventEnabled))
	}
	return true, nil
}

func (d *Device) setDisabled(disabled bool) {
	d.disabled = disabled
	d.update(func(v *view) { v.disabled = disabled })
}

// cableChanged turns the carrier off or on when the toolstack says so. Attached tells
// whether the backend is there.
func (d *Device) cableChanged(ctx context.Context, b *bus, attached bool, pairs []*pair) error {
	changed, err := d.noteDisabled(ctx, b)
	if err != nil || !changed || !attached {
		return err
	}
	return d.plugIn(pairs)
}

// plugIn gives the TAP its carrier and announces what is behind it, unless the toolstack
// has disabled the vif: then there is no carrier, and nobody to announce to.
func (d *Device) plugIn(pairs []*pair) error {
	d.announce.end()
	if err := d.link.SetCarrier(!d.disabled); err != nil || d.disabled {
		return err
	}
	d.announce.begin(pairs[0].workers[0])
	return nil
}
