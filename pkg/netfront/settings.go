package netfront

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// settings are what this program has set on the TAP last. What differs from it somebody else
// has set since, and an administrator's wish lasts. They go to the next process with the TAP's
// descriptors, behind its name in the bundle's label. A zero value was not set, or is not
// known.
type settings struct {
	MAC      string      `json:"mac,omitempty"`
	MTU      int         `json:"mtu,omitempty"`
	WishMTU  int         `json:"wish_mtu,omitempty"`   // an administrator's
	Config   int         `json:"config_mtu,omitempty"` // the configuration's, which is newer than a wish if it changes
	QueueLen int         `json:"txqueuelen,omitempty"`
	Offload  tap.Offload `json:"offload,omitempty"`
	Offered  bool        `json:"offered,omitempty"` // Offload was set
	WishOff  tap.Offload `json:"wish_off,omitempty"`
	Standing standing    `json:"standing,omitzero"` // not set on the TAP, but lasts as long
}

// label is a TAP's label with the holder.
func (s settings) label(name string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return name // no such settings exist
	}
	return name + " " + string(b)
}

// settingsOf reads a label. What another version wrote is left out.
func settingsOf(label string) (s settings) {
	if _, text, ok := strings.Cut(label, " "); ok && json.Unmarshal([]byte(text), &s) != nil {
		return settings{}
	}
	return s
}

// chooseMTU is the MTU that the TAP is to have, out of what configuration and toolstack say,
// what a frame of the connection can carry, and what the TAP has now.
func (s *settings) chooseMTU(target, limit, now int) int {
	s.WishMTU = s.wishedMTU(now)
	if s.WishMTU == target {
		s.WishMTU = 0
	}
	if s.WishMTU != 0 {
		target = s.WishMTU
	}
	return min(target, limit)
}

// wishedMTU is what an administrator wants of a TAP that has this MTU now; 0: nothing.
func (s *settings) wishedMTU(now int) int {
	if s.MTU != 0 && now != s.MTU {
		return now
	}
	return s.WishMTU
}

// configureLink gives the TAP what the connection can carry, and what the configuration and
// the toolstack say, as far as nobody else has said otherwise since. Where the TAP was moved to
// a network namespace in which this process may not set it, it stays as it is.
func (d *Device) configureLink(f Features) error {
	before := d.set
	err := errors.Join(d.configureOffload(f), d.configureMTU(f), d.configureQueueLen())
	if errors.Is(err, tap.ErrElsewhere) {
		d.log.Warn("the TAP keeps its settings: it is in another network namespace", problem(err), event(EventKept))
		err = nil
	}
	if d.set != before {
		d.holdLink()
	}
	return err
}

func offloadOf(f Features) (o tap.Offload) {
	if f.Csum {
		o |= tap.OffloadCsum
	}
	if f.GSOv4 {
		o |= tap.OffloadTSO4
	}
	if f.GSOv6 {
		o |= tap.OffloadTSO6
	}
	return o
}

// configureOffload sets the offloads where others are agreed on than the last time. To set
// them switches on what an administrator has switched off (set_offload of drivers/net/tun.c), so
// that is switched off again.
func (d *Device) configureOffload(f Features) error {
	want := offloadOf(f) & d.link.ProbeOffload()
	if d.set.Offered && want == d.set.Offload {
		return nil
	}
	if d.set.Offered {
		on, err := d.link.WantedOffload()
		switch {
		case err == nil:
			d.set.WishOff = d.set.WishOff&^d.set.Offload | d.set.Offload&^on
		case !errors.Is(err, tap.ErrElsewhere):
			return err
		}
	}
	if err := d.link.SetOffload(want); err != nil {
		return err
	}
	d.set.Offload, d.set.Offered = want, true
	if off := d.set.WishOff & want; off != 0 {
		return d.link.SwitchOff(off)
	}
	return nil
}

func (d *Device) configureMTU(f Features) error {
	st, err := d.link.State()
	if err != nil || !st.Known {
		return err
	}
	if d.cfg.MTU != d.set.Config {
		d.set.MTU, d.set.WishMTU, d.set.Config = st.MTU, 0, d.cfg.MTU
	}
	limit := maxMTU
	if !f.SG {
		limit = defaultMTU // a frame is one slot then
	}
	mtu := d.set.chooseMTU(d.cfg.mtu(d.id), limit, st.MTU)
	if mtu != st.MTU {
		if want := max(d.cfg.mtu(d.id), d.set.WishMTU); want > mtu && !f.SG {
			d.log.Warn("the vif's MTU cannot be used", zap.Int("mtu", mtu), event(EventMTU),
				zap.String("error", fmt.Sprintf("it is %d, and this backend takes no frame of more than one page (no sg)", want)))
		}
		if err := d.link.SetMTU(mtu); err != nil {
			return err
		}
	}
	d.set.MTU = mtu
	return nil
}

func (d *Device) configureQueueLen() error {
	want := d.cfg.TxQueueLen
	if want == 0 && d.set.QueueLen == 0 && !d.cfg.NoShaping && d.link.Pushes() {
		var err error
		if want, err = d.shortQueue(); err != nil {
			return err
		}
	}
	if want == 0 || want == d.set.QueueLen {
		return nil
	}
	if err := d.link.SetTxQueueLen(want); err != nil {
		return err
	}
	d.set.QueueLen = want
	return nil
}

// pushedQueueLen is how many frames a TAP holds that stops its queueing discipline when it
// is full: enough to keep a worker busy, and few, since frames have left their sockets there.
// With eight uploads in a guest with one CPU, pings took 57 ms with it, and 239 with 1000.
const pushedQueueLen = 64

// shortQueue is the queue length of a TAP that stops its discipline, 0 to leave it alone:
// somebody has set another, or the discipline is as long as the TAP's queue.
func (d *Device) shortQueue() (int, error) {
	st, err := d.link.State()
	if err != nil || st.QueueLen != tap.DefaultQueueLen {
		return 0, err
	}
	shapers, _, err := d.link.Shapers()
	if err != nil {
		return 0, err
	}
	for _, s := range shapers {
		if strings.HasPrefix(s.Kind, "pfifo") || s.Kind == "" {
			return 0, nil
		}
	}
	return pushedQueueLen, nil
}

// learn reads again what the toolstack says of the vif, which may have been attached anew with
// another address and MTU, and gives the TAP the address, if it has the one that it was given
// last. What is no address or no MTU is left out, and said once.
func (d *Device) learn(ctx context.Context, a address) error {
	id, err := readIdentity(ctx, d.guest.Store, a)
	before := d.id
	if errors.Is(err, errIdentity) {
		if _, gone := d.find(ctx); gone != nil {
			return gone // there is nothing to be said of a vif that was detached just now
		}
		id.mac, id.refusedMAC = before.mac, err.Error()
	} else if err != nil {
		return err
	}
	if id.refused != "" && id.mtu == 0 {
		id.mtu = before.mtu
	}
	d.sayRefused(before, id)
	changed := !bytes.Equal(id.mac, before.mac) || id.mtu != before.mtu
	var kept []string
	if changed || d.set.MAC != id.mac.String() {
		if kept, err = d.followMAC(id.mac); err != nil {
			return err
		}
	}
	if id.mtu != before.mtu {
		kept = append(kept, d.keptMTU(id)...)
	}
	d.update(func(*view) { d.id = id }) // Status reads it
	if changed {
		d.log.Info("the toolstack has changed the vif", zap.Stringer("mac", id.mac), zap.Int("mtu", d.cfg.mtu(id)),
			zap.Stringer("mac_before", before.mac), zap.Int("mtu_before", d.cfg.mtu(before)),
			zap.String("tap_keeps", strings.Join(kept, ", ")), event(EventChanged))
	}
	return nil
}

// learnLate is learn once the backend is Connected. Before that comes the hotplug script, which
// writes the bridge's MTU into the vif's directory where the vif's configuration has none
// (set_mtu of Xen's tools/hotplug/Linux/xen-network-common.sh).
func (d *Device) learnLate(ctx context.Context, a address, f Features) error {
	before := d.id.mtu
	if err := d.learn(ctx, a); err != nil || d.id.mtu == before {
		return err
	}
	return d.configureLink(f)
}

// sayRefused says what of the toolstack's is not used as it is, and was not so before. Its MTU
// does not matter where the configuration has one.
func (d *Device) sayRefused(before, id identity) {
	if id.refusedMAC != "" && id.refusedMAC != before.refusedMAC {
		d.log.Warn("what the toolstack says of the vif cannot be used: it stays as it was",
			zap.String("error", id.refusedMAC), event(EventIdentity))
	}
	if id.refused != "" && id.refused != before.refused && d.cfg.MTU == 0 {
		d.log.Warn("the vif's MTU cannot be used", zap.String("error", id.refused), zap.Int("mtu", d.cfg.mtu(id)), event(EventMTU))
	}
}

// keptMTU says why the TAP has another MTU than the toolstack's.
func (d *Device) keptMTU(id identity) []string {
	if st, err := d.link.State(); err == nil && st.Known && d.cfg.MTU == d.set.Config {
		if wish := d.set.wishedMTU(st.MTU); wish != 0 && wish != d.cfg.mtu(id) {
			return []string{fmt.Sprintf("MTU %d, which somebody has set", wish)}
		}
	}
	if d.cfg.MTU != 0 {
		return []string{fmt.Sprintf("MTU %d of the configuration", d.cfg.MTU)}
	}
	return nil
}

// followMAC gives the TAP the vif's address, unless it has another one than it was given last:
// that is somebody's wish. Kept says that it is.
func (d *Device) followMAC(mac net.HardwareAddr) (kept []string, err error) {
	now, err := d.link.MAC()
	if err != nil {
		return nil, err
	}
	switch {
	case bytes.Equal(now, mac):
	case now.String() != d.set.MAC:
		return []string{fmt.Sprintf("address %s, which somebody has set", now)}, nil
	default:
		if err := d.link.SetMAC(mac); err != nil {
			return nil, err
		}
	}
	if d.set.MAC != mac.String() {
		d.set.MAC = mac.String()
		d.holdLink()
	}
	return nil, nil
}
