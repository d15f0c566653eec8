package daemon

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/guestvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/heldvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/privilege"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/vifowner"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
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

// place is where vifs are served: the hypervisor, the machine, the configuration and the log.
type place struct {
	xen    machine.Xen
	sys    machine.System
	kernel *vifowner.Kernel
	cfg    *atomic.Pointer[config.Config]
	log    *zap.Logger

	holder  netfront.Holder   // nil: nothing is handed over
	watches *netfront.Watches // whether xenstore's events are late; nil: not known
	// privileged calls what needs CAP_NET_ADMIN; nil: it is in effect.
	privileged privilege.Call
}

// vif is one interface of the guest and all that serves it. Its steps are open, run and
// close. It shares nothing with the other vifs, not even the connection to xenstore. One
// goroutine calls the steps, own, disown and locate; any goroutine may call the other
// methods.
type vif struct {
	place
	lock  *vifowner.Lock // of the number that the vif has now; nil: it is away
	guest *xen.Guest

	mu    sync.Mutex
	id    identity
	front frontend
}

// identity tells which vif of the guest it is, and what is configured for it.
type identity struct {
	table config.Vif       // its table in the configuration
	devid int              // its number now, or the last one
	mac   net.HardwareAddr // nil: not known; then only the number counts
	tap   string           // name of its TAP; it stays when the number changes
}

func newVif(p place, table config.Vif, devid int, mac net.HardwareAddr) *vif {
	return &vif{place: p, id: identity{table, devid, mac, table.TAPName(devid)}}
}

// open makes the vif's TAP and does all that can fail for a reason that the user must mend.
// After a failure close frees what open got.
func (v *vif) open(ctx context.Context) (err error) {
	if v.guest, err = v.xen.Open(v.sys); err != nil {
		return err
	}
	if err := v.sys.Check(); err != nil {
		return err
	}
	id := v.identity()
	if err := v.own(ctx, id.devid); err != nil {
		return err
	}
	cfg := guestvif.Config(id.table, id.devid)
	if err := checkBudget(ctx, v.guest, cfg); err != nil {
		return err
	}
	cfg.Logger = v.log // the Device adds the number of the vif
	cfg.Locate = v.locate
	cfg.Watches = v.watches
	cfg.ReportAddresses = v.reporting
	cfg.MaxViolations = func() int { return v.identity().table.Violations }
	cfg.Holder, cfg.HoldKey = v.holder, heldvif.Key(id.tap)
	cfg.Privileged = v.privileged
	device, err := netfront.Open(ctx, v.guest, cfg)
	if err != nil {
		return guestvif.ExplainOpen(ctx, v.guest, cfg, err)
	}
	v.setFront(device)
	return nil
}

// reporting tells whether the daemon reports the TAP's addresses to the toolstack, by the
// present table.
func (v *vif) reporting() netfront.Reporting {
	switch v.identity().table.Report {
	case config.ReportAlways:
		return netfront.ReportAlways
	case config.ReportNever:
		return netfront.ReportNever
	}
	return netfront.ReportToXAPI
}

// run serves the vif until ctx ends, and then ends the connection. If the cause of ctx is
// [netfront.ErrLeave], run leaves the connection to the next process. An error means that it
// could not go on.
func (v *vif) run(ctx context.Context) error {
	f := v.frontend()
	if f == nil {
		return errors.New("vif is not open")
	}
	return f.Run(ctx)
}

// close frees what open got, the TAP first. A second call does nothing.
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

// reserveLimit is how long to wait for a vif that a command has reserved. A command needs
// longer only with a backend that does not answer.
const reserveLimit = 2 * time.Second

// own locks vif devid for this process. It fails if another process or the kernel has the
// vif.
func (v *vif) own(ctx context.Context, devid int) error {
	if !v.xen.Embedded() {
		limited, cancel := context.WithTimeout(ctx, reserveLimit)
		defer cancel()
		release, err := v.kernel.Share(limited, devid)
		if err != nil {
			return err
		}
		defer release()
		if err := v.kernel.CheckFree(devid); err != nil {
			return errors.Join(err, v.disown())
		}
	}
	if v.lock != nil && v.lock.DevID() == devid {
		return nil
	}
	lock, err := vifowner.Take(v.xen.LockDir(), devid)
	if err != nil {
		return err
	}
	err = v.disown()
	v.lock = lock
	return err
}

// disown gives the lock up.
func (v *vif) disown() error {
	if v.lock == nil {
		return nil
	}
	err := v.lock.Release()
	v.lock = nil
	return err
}

// locate finds the vif among those that the guest has. The driver calls it before each
// connection: the vif can have been attached again meanwhile, with another number, or with
// the kernel's driver on it.
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
		v.id.mac = p.MAC // can change for a vif that the configuration names by its number
	}
	return p.DevID, nil
}

// among finds the vif in a list. If the table names it by number, it is the vif with that
// number. Else it is the vif with the same address; if several vifs have that address, it is
// the one with the number that it had last.
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

// setTable replaces the table by one that says the same of the TAP.
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

// checkBudget fails if the guest may not grant enough pages for even one queue, and this
// process may not raise the limit. It leaves all other errors to [netfront.Open].
func checkBudget(ctx context.Context, guest *xen.Guest, cfg netfront.Config) error {
	r, err := netfront.Inspect(ctx, guest, cfg)
	if !errors.Is(err, netfront.ErrBudget) || guest.Grants.RaiseLimit(r.Budget.Needed) == nil {
		return nil
	}
	return err
}
