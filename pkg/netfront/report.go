package netfront

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// XAPI shows a guest's addresses, and whoever deploys guests waits for them there. It has
// them from the guest: attr/vif/N/ipv4/M and ipv6/M, M counting from 0, and then
// data/updated, which it watches (xapi_guest_agent.ml of xen-api). XenServer's guest agent
// writes them for the kernel's interfaces, which it knows by a link in sysfs that a TAP has
// not, so they are written here.

// Reporting says whether the toolstack is told the TAP's addresses.
type Reporting int

const (
	ReportNever  Reporting = iota
	ReportToXAPI           // where the vif is XAPI's, which shows by a node that libxl has not
	ReportAlways           //
)

const (
	// reportEvery is how often it is looked for other addresses.
	reportEvery = 5 * time.Second
	// reportTimeout bounds what is asked of xenstore for it.
	reportTimeout = time.Second
	// maxReported is how many addresses of a family are told: a guest's part of xenstore is
	// small, and its quota is for other programs, too.
	maxReported = 16
	// keyUpdated tells XAPI to look.
	keyUpdated = "data/updated"
)

// reporter tells the toolstack the TAP's addresses. It belongs to one goroutine.
type reporter struct {
	d        *Device
	devid    int
	connects uint64 // when it was last looked whose the vif is
	xapi     bool
	told     map[string]string // nodes below dir, as they were written
	problem  string            // that was last said
}

func reportDir(devid int) string { return "attr/vif/" + strconv.Itoa(devid) }

// report tells the addresses, and what becomes of them, until ctx ends. Those of a TAP that
// goes are taken back. Wait is for its end.
func (d *Device) report(ctx context.Context) (wait func()) {
	if d.cfg.ReportAddresses == nil {
		return func() {}
	}
	var all sync.WaitGroup
	all.Go(func() {
		r := reporter{d: d, devid: -1}
		look := time.NewTicker(d.reportEvery)
		defer look.Stop()
		for ctx.Err() == nil {
			r.note(r.look(ctx))
			select {
			case <-ctx.Done():
			case <-look.C:
			}
		}
		if !leaving(ctx) {
			r.note(r.takeBack(context.WithoutCancel(ctx)))
		}
	})
	return all.Wait
}

// note says what is wrong, once.
func (r *reporter) note(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != r.problem {
		r.d.log.Warn("the toolstack is not told the addresses", problem(err), event(EventNotReported))
	}
	r.problem = text
}

// look writes what has changed.
func (r *reporter) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if err := r.vif(ctx); err != nil {
		return unlessEnded(ctx, err)
	}
	mode := r.d.cfg.ReportAddresses()
	if mode == ReportNever || mode == ReportToXAPI && !r.xapi {
		return unlessEnded(ctx, r.takeBack(ctx))
	}
	addrs, err := r.d.link.Addresses()
	if err != nil {
		return nil // the TAP is gone, or will be looked at again
	}
	nodes := reportNodes(addrs)
	if maps.Equal(nodes, r.told) {
		if stands, err := r.stands(ctx); stands || err != nil {
			return unlessEnded(ctx, err)
		}
	}
	return unlessEnded(ctx, r.write(ctx, nodes))
}

// stands tells whether what was told is still there. XenServer's guest agent knows what it
// wrote for the kernel's interface while that had the vif, and removes it when the interface
// has been gone for up to two minutes (InvalidCacheFlush of xe-guest-utilities): by then it is
// the TAP's.
func (r *reporter) stands(ctx context.Context) (bool, error) {
	for key, value := range r.told {
		path := reportDir(r.devid) + "/" + key
		got, err := r.d.guest.Store.Read(ctx, path)
		if errors.Is(err, xenstore.ErrNotFound) || err == nil && got != value {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return true, nil
}

func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil // it is tried again, or nobody wants it any more
	}
	return err
}

// vif sees whether the vif has another number, or is another toolstack's: with each
// connection, since a guest that was restored has nothing left of what was told.
func (r *reporter) vif(ctx context.Context) error {
	r.d.mu.Lock()
	devid, connects := r.d.cfg.DevID, r.d.view.connects
	r.d.mu.Unlock()
	if devid == r.devid && connects == r.connects {
		return nil
	}
	if devid != r.devid {
		if err := r.takeBack(ctx); err != nil {
			return err
		}
	}
	_, err := r.d.guest.Store.Read(ctx, fmt.Sprintf("%s/%d/%s", vifDir, devid, netif.KeyDisconnect))
	if err != nil && !errors.Is(err, xenstore.ErrNotFound) {
		return fmt.Errorf("whether the vif is XAPI's: %w", err)
	}
	r.devid, r.connects, r.xapi = devid, connects, err == nil
	r.told = nil
	return nil
}

// reportNodes are the nodes for addresses.
func reportNodes(addrs []net.IP) map[string]string {
	nodes := make(map[string]string)
	v4, v6 := 0, 0
	for _, ip := range addrs {
		family, n := "ipv6", &v6
		if ip.To4() != nil {
			family, n = "ipv4", &v4
		}
		if *n < maxReported {
			nodes[family+"/"+strconv.Itoa(*n)] = ip.String()
			*n++
		}
	}
	return nodes
}

// write puts nodes in the place of what is there.
func (r *reporter) write(ctx context.Context, nodes map[string]string) error {
	store, dir := r.d.guest.Store, reportDir(r.devid)
	err := store.Update(ctx, func(tx xenstore.Operations) error {
		if err := tx.Remove(ctx, dir); err != nil && !errors.Is(err, xenstore.ErrNotFound) {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(nodes)) {
			if err := tx.Write(ctx, dir+"/"+key, nodes[key]); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = store.Write(ctx, keyUpdated, time.Now().UTC().Format(time.ANSIC))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	r.told = nodes
	r.d.update(func(v *view) { v.reported = slices.Sorted(maps.Values(nodes)) })
	r.d.log.Debug("told the toolstack the addresses", zap.Any("nodes", nodes))
	return nil
}

// takeBack removes what was told.
func (r *reporter) takeBack(ctx context.Context) error {
	if len(r.told) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	return r.write(ctx, map[string]string{})
}
