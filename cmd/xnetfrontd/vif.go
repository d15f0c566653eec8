package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/privilege"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// frontend is what carries a vif's frames: a netfront.Device.
type frontend interface {
	Run(ctx context.Context) error
	Close() error
	Status() netfront.Status
	Alive(timeout time.Duration) error
	Name() string
	Dump(ctx context.Context) (*netfront.Dump, error)
	Capture(ctx context.Context, c netfront.CaptureConfig, sink netfront.CaptureSink) (netfront.CaptureResult, error)
	Kick() error
	Retry()
	LostByClose() bool
}

// place is where vifs are served: the hypervisor, the machine, what is configured,
// and the log.
type place struct {
	xen xenFlags
	sys system
	cfg *atomic.Pointer[config.Config]
	log *zap.Logger

	holder  netfront.Holder   // nil: nothing is handed over
	watches *netfront.Watches // whether xenstore's events are late; nil: nobody looks
	// privileged calls what needs CAP_NET_ADMIN; nil: it is in effect.
	privileged privilege.Call
}

// vif is one interface of the guest and what serves it, in steps: open, run, close.
// It shares nothing with the others, not even the connection to xenstore. The steps
// belong to one goroutine, with own, disown and locate; the other methods may be called
// by any.
type vif struct {
	place
	lock  *vifLock // of the number that the vif has now; nil while it is away
	guest *xen.Guest

	mu    sync.Mutex
	id    identity
	front frontend
}

// identity is which vif of the guest it is, and what is said of it.
type identity struct {
	table config.Vif       // by which it is served
	devid int              // its number now, or the last one
	mac   net.HardwareAddr // nil when it is not known; then only the number counts
	tap   string           // name of its TAP, which stays when the number changes
}

func newVif(p place, table config.Vif, devid int, mac net.HardwareAddr) *vif {
	return &vif{place: p, id: identity{table, devid, mac, table.TAPName(devid)}}
}

// open makes the vif's TAP and all that can fail for a reason which the user must
// mend. What it got before it failed is for close.
func (v *vif) open(ctx context.Context) (err error) {
	if v.guest, err = v.xen.open(v.sys); err != nil {
		return err
	}
	if err := v.sys.check(); err != nil {
		return err
	}
	id := v.identity()
	if err := v.own(ctx, id.devid); err != nil {
		return err
	}
	cfg := frontendConfig(id.table, id.devid)
	if err := checkBudget(ctx, v.guest, cfg); err != nil {
		return err
	}
	cfg.Logger = v.log // Device adds the vif itself
	cfg.Locate = v.locate
	cfg.Watches = v.watches
	cfg.ReportAddresses = v.reporting
	cfg.MaxViolations = func() int { return v.identity().table.Violations }
	cfg.Holder, cfg.HoldKey = v.holder, holdKey(id.tap)
	cfg.Privileged = v.privileged
	device, err := netfront.Open(ctx, v.guest, cfg)
	if err != nil {
		return explainOpen(ctx, v.guest, cfg, err)
	}
	v.setFront(device)
	return nil
}

// reporting says whether the toolstack is told the TAP's addresses, by the table as it is
// now.
func (v *vif) reporting() netfront.Reporting {
	switch v.identity().table.Report {
	case config.ReportAlways:
		return netfront.ReportAlways
	case config.ReportNever:
		return netfront.ReportNever
	}
	return netfront.ReportToXAPI
}

// run serves the vif until ctx ends, and then gives back what the backend knows of; or,
// when the cause is netfront.ErrLeave, leaves it to the next process. An error means
// that it could not go on.
func (v *vif) run(ctx context.Context) error {
	f := v.frontend()
	if f == nil {
		return errors.New("vif is not open")
	}
	return f.Run(ctx)
}

// close frees what open got, the TAP first. A second close does nothing.
func (v *vif) close() error {
	var errs []error
	if f := v.frontend(); f != nil {
		errs = append(errs, f.Close())
		v.setFront(nil)
	}
	if v.guest != nil {
		errs = append(errs, v.guest.Close())
		v.guest = nil
	}
	return errors.Join(append(errs, v.disown())...)
}

// handLimit is how long a vif is waited for that a command has in hand. It takes longer
// only with a backend that does not answer.
const handLimit = 2 * time.Second

// own takes vif devid for this process, unless another or the kernel has it.
func (v *vif) own(ctx context.Context, devid int) error {
	if !v.xen.embedded() {
		limited, cancel := context.WithTimeout(ctx, handLimit)
		defer cancel()
		release, err := v.sys.share(limited, devid)
		if err != nil {
			return err
		}
		defer release()
		if err := v.sys.checkOwner(devid); err != nil {
			return errors.Join(err, v.disown())
		}
	}
	if v.lock != nil && v.lock.devid == devid {
		return nil
	}
	lock, err := lockVif(v.xen.lockDir(), devid)
	if err != nil {
		return err
	}
	err = v.disown()
	v.lock = lock
	return err
}

// disown gives the number up.
func (v *vif) disown() error {
	if v.lock == nil {
		return nil
	}
	err := v.lock.release()
	v.lock = nil
	return err
}

// locate finds the vif among those that the guest has, as the frontend asks before
// each connection: it can have been attached again meanwhile, with another number or
// with the kernel's driver on it.
func (v *vif) locate(ctx context.Context, s xen.Store) (int, error) {
	vifs, err := netfront.Vifs(ctx, s)
	if err != nil {
		return 0, err
	}
	p, ok := v.among(vifs)
	if !ok {
		return 0, errors.Join(v.disown(), netfront.ErrNoVif)
	}
	if err := v.own(ctx, p.DevID); err != nil {
		return 0, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.id.devid = p.DevID
	if p.MAC != nil {
		v.id.mac = p.MAC // another one, of a vif that is known by its number
	}
	return p.DevID, nil
}

// among finds the vif in a list. The one that a table names by its number is whatever
// has the number. Any other is known by its address; should several have that, by the
// number that it had last.
func (v *vif) among(vifs []netfront.Vif) (found netfront.Vif, ok bool) {
	id := v.identity()
	_, named := id.table.Match.DevID()
	for _, p := range vifs {
		switch {
		case named || id.mac == nil:
			if p.DevID == id.devid {
				return p, true
			}
		case p.MAC.String() != id.mac.String() || v.cfg.Load().Names(p.DevID):
		case p.DevID == id.devid:
			return p, true
		case !ok:
			found, ok = p, true
		}
	}
	return found, ok
}

func (v *vif) identity() identity {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.id
}

// setTable puts another table in the place of one that says the same of the TAP.
func (v *vif) setTable(t config.Vif) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.id.table = t
}

func (v *vif) frontend() frontend {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.front
}

func (v *vif) setFront(f frontend) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.front = f
}

// checkBudget fails when the guest may not grant pages enough for even one queue and
// that cannot be mended from here. Everything else that is wrong is for Open to say.
func checkBudget(ctx context.Context, guest *xen.Guest, cfg netfront.Config) error {
	r, err := netfront.Inspect(ctx, guest, cfg)
	if !errors.Is(err, netfront.ErrBudget) || guest.Grants.RaiseLimit(r.Budget.Needed) == nil {
		return nil
	}
	return err
}

// explainOpen adds to an error of Open or Inspect what helps.
func explainOpen(ctx context.Context, guest *xen.Guest, cfg netfront.Config, err error) error {
	switch {
	case errors.Is(err, netfront.ErrNoVif):
		return fmt.Errorf("%w: %s", netfront.ErrNoVif, existing(ctx, guest))
	case errors.Is(err, tap.ErrNameTaken):
		return tapTaken(cfg.TAPName)
	}
	return err
}

func tapTaken(name string) error {
	return fmt.Errorf("TAP %q: %w: choose another `tap`, or remove that link with `ip link del %s`", name, tap.ErrNameTaken, name)
}
