package netfront

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// Vif is a network interface that the toolstack has given to this guest.
type Vif struct {
	DevID int
	MAC   net.HardwareAddr // nil if the toolstack has not said it, or nothing that is one
}

// Vifs returns the vifs that the guest has, by number: those with a backend, since a
// directory without that is being made or removed. One whose nodes make no sense is among
// them: whoever opens it is told what is wrong.
func Vifs(ctx context.Context, s xen.Store) ([]Vif, error) {
	ids, err := ListVifs(ctx, s)
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	var vifs []Vif
	for _, devid := range ids {
		v, err := readVif(ctx, s, devid)
		if errors.Is(err, ErrNoVif) {
			continue
		}
		if err != nil && !errors.Is(err, errBackend) {
			return nil, err
		}
		vifs = append(vifs, v)
	}
	return vifs, nil
}

// readVif reads one of them. The nodes of a vif come and go at once, but are read one
// after the other, so an address that is missing is looked for again: the vif may have
// gone in between, or be another one by now.
func readVif(ctx context.Context, s xen.Store, devid int) (Vif, error) {
	const tries = 3
	for try := 1; ; try++ {
		a, err := findVif(ctx, s, devid)
		if err != nil {
			return Vif{DevID: devid}, err
		}
		mac, err := readMAC(ctx, s, a)
		if err == nil || errors.Is(err, errIdentity) && try == tries {
			return Vif{DevID: devid, MAC: mac}, nil
		}
		if !errors.Is(err, errIdentity) {
			return Vif{}, err
		}
	}
}

// errIdentity says that the toolstack has given a vif no address, or none that is one.
var errIdentity = errors.New("no usable MAC address")

// readMAC reads the vif's address, from our directory or else from the backend's.
func readMAC(ctx context.Context, s xenstore.Operations, a address) (net.HardwareAddr, error) {
	v, err := readEither(ctx, s, a, netif.KeyMAC)
	if err != nil {
		return nil, err
	}
	if v == "" {
		return nil, fmt.Errorf("%w: %s/%s is missing, and so is the backend's", errIdentity, a.dir, netif.KeyMAC)
	}
	mac, err := net.ParseMAC(v)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return nil, fmt.Errorf("%w: %s/%s is %q, want a unicast Ethernet address", errIdentity, a.dir, netif.KeyMAC, v)
	}
	return mac, nil
}

// find reads where the vif is now, by the number that Locate says it has.
func (d *Device) find(ctx context.Context) (address, error) {
	devid := d.cfg.DevID
	if d.cfg.Locate != nil {
		var err error
		if devid, err = d.cfg.Locate(ctx, d.guest.Store); err != nil {
			return address{}, err
		}
	}
	if devid != d.cfg.DevID {
		d.log.Info("the vif has another number now", zap.Int("number", devid), event(EventRenumbered))
		d.update(func(*view) { d.cfg.DevID = devid }) // Status reads it
	}
	return findVif(ctx, d.guest.Store, devid)
}

// errUnplugged says why a backend has closed a vif.
var errUnplugged = errors.New("the toolstack has detached the vif")

// noteUnplugged is errUnplugged if the toolstack takes the vif away, as far as the backend's
// directory says: it names the end of the connection, and no more. The backend can write there
// what it likes.
func noteUnplugged(ctx context.Context, b *bus) error {
	if !unplugged(ctx, b) {
		return nil
	}
	return errUnplugged
}

// checkWanted fails with errUnplugged if the toolstack takes the vif away, which is to be
// asked whenever a backend has just become Connected: the toolstack writes that the device
// is to go together with the state Closing, and a backend that was connecting meanwhile
// writes Connected over that state (xenbus_switch_state does not look).
func checkWanted(ctx context.Context, b *bus) error {
	online, err := b.store.Read(ctx, b.backend+"/"+netif.KeyOnline)
	if err != nil && !errors.Is(err, xenstore.ErrNotFound) {
		return fmt.Errorf("whether the vif is to go: %w", err)
	}
	if online != "0" {
		return nil
	}
	return errUnplugged
}

// unplugged tells whether the toolstack is taking the vif away, or has: before it has
// a backend close, it says in its directory that the device is to go. Asked later, the
// vif may be back already.
func unplugged(ctx context.Context, b *bus) bool {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	online, err := b.store.Read(ctx, b.backend+"/"+netif.KeyOnline)
	return errors.Is(err, xenstore.ErrNotFound) || err == nil && online == "0"
}

// plugWatch tells whether the toolstack has taken a vif away or brought it since it was last
// asked, however soon one came upon the other.
type plugWatch struct {
	dir   string
	watch *xenstore.Watch // nil: none
	fresh bool            // its first event, which says nothing, is to come, however late
}

// set has it be about the vif in dir from now on.
func (p *plugWatch) set(ctx context.Context, s xen.Store, dir string) error {
	if p.watch != nil && p.dir == dir {
		return nil
	}
	p.close()
	w, err := s.Watch(ctx, dir+"/"+netif.KeyBackend)
	if err != nil {
		return fmt.Errorf("watch vif: %w", err)
	}
	p.dir, p.watch, p.fresh = dir, w, true
	return nil
}

func (p *plugWatch) events() <-chan string {
	if p.watch == nil {
		return nil
	}
	return p.watch.Events()
}

// took tells whether an event says that the vif was attached or detached.
func (p *plugWatch) took(ok bool) bool {
	first := p.fresh
	p.fresh = false
	if !ok {
		p.close()
	}
	return ok && !first
}

func (p *plugWatch) changed() bool {
	for {
		select {
		case _, ok := <-p.events():
			if p.took(ok) {
				return true
			}
		default:
			return false
		}
	}
}

func (p *plugWatch) close() {
	if p.watch != nil {
		_ = p.watch.Close() // which always succeeds
	}
	*p = plugWatch{}
}
