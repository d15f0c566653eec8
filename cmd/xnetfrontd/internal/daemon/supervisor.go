package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/guestvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// supervisor has a service for each vif that the guest has and the configuration names. Its
// goroutine, that of run, is the only one that makes and stops services. It works from whole
// lists of the guest's vifs, and compares each list with its services. So it can miss no
// change, and no change comes out of order.
type supervisor struct {
	cfg  atomic.Pointer[config.Config]
	log  *zap.Logger
	make func(table config.Vif, devid int, mac net.HardwareAddr) steps

	begin   chan struct{} // closed when vifs may be run
	poked   chan struct{} // something has changed: compare again
	pings   chan chan struct{}
	present []netfront.Vif

	mu       sync.Mutex
	services []*service // in the order in which they came
	waiting  []waiting
}

// waiting is a table of the configuration that fits no vif of the guest.
type waiting struct {
	match config.Selector
	since time.Time
	has   []netfront.Vif // the vifs that there are
}

func newSupervisor(cfg config.Config, log *zap.Logger) *supervisor {
	s := &supervisor{
		log:   log,
		begin: make(chan struct{}),
		poked: make(chan struct{}, 1),
		pings: make(chan chan struct{}),
	}
	s.cfg.Store(&cfg)
	return s
}

// poke makes the supervisor compare again. Any goroutine may call it.
func (s *supervisor) poke() {
	select {
	case s.poked <- struct{}{}:
	default: // it is about to compare
	}
}

// start begins to serve the vifs that are there. It returns when each was tried once: then
// every TAP exists that can. It fails if none of them can be served and the daemon waits for
// no other vif.
func (s *supervisor) start(ctx context.Context, vifs []netfront.Vif) error {
	s.reconcile(ctx, vifs)
	for _, v := range s.services {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-v.tried:
		}
	}
	var errs failure.Several
	for _, v := range s.services {
		_, err := v.trouble()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("vif %d: %w", v.identity().devid, err))
	}
	if len(s.waiting) > 0 {
		return nil
	}
	return errs.OrNil()
}

// run follows the guest's vifs and the configuration until ctx ends. It calls changed when
// the status may have changed.
func (s *supervisor) run(ctx context.Context, scans <-chan []netfront.Vif, configs <-chan nextConfig, changed func()) {
	close(s.begin)
	for {
		expiry := s.reconcile(ctx, s.present)
		changed()
		select {
		case <-ctx.Done():
			return
		case s.present = <-scans:
		case next := <-configs:
			s.reload(next.Config)
			s.reconcile(ctx, s.present)
			close(next.applied)
		case <-expiry:
		case <-s.poked:
		case pong := <-s.pings:
			close(pong)
		}
	}
}

// reconcile starts and stops services so that they fit the vifs. It returns a channel that
// says when to compare again though nothing has changed.
func (s *supervisor) reconcile(ctx context.Context, vifs []netfront.Vif) <-chan time.Time {
	s.present = vifs
	s.forget()
	now := time.Now()
	served := map[int]bool{} // numbers
	next := time.Duration(-1)
	for _, v := range s.services {
		if v.stopping {
			continue
		}
		if p, ok := v.among(s.present); ok && !served[p.DevID] {
			served[p.DevID] = true
			if _, changed := v.setAbsent(false, now); changed {
				v.log.Info("the vif is back", zap.Int("number", p.DevID), logging.Event(eventVifBack))
			}
			continue
		}
		keep := v.identity().table.Keep
		since, changed := v.setAbsent(true, now)
		if changed {
			v.log.Info("the vif is gone", zap.String("tap_stays", stays(keep)), logging.Event(eventVifGone))
		}
		left := since.Add(keep).Sub(now)
		switch forever := keep == config.Forever; {
		case v.frontend() == nil, !forever && left <= 0, s.replaced(v):
			v.log.Info("not served any more: the vif is gone", logging.Event(eventVifLeft))
			v.stop(nil)
		case !forever && (next < 0 || left < next):
			next = left
		}
	}
	s.startMissing(ctx, served)
	s.note(now)
	if next < 0 {
		return nil
	}
	return time.After(next)
}

func stays(keep time.Duration) string {
	if keep == config.Forever {
		return "until the vif is back"
	}
	return keep.String()
}

// replaced tells whether a vif that is there needs the TAP's name of a service whose vif is
// gone, and which the configuration does not name.
func (s *supervisor) replaced(v *service) bool {
	id := v.identity()
	return id.table.Match.All() && slices.ContainsFunc(s.present, func(p netfront.Vif) bool {
		t, ok := s.cfg.Load().For(p.DevID, p.MAC)
		return ok && t.TAPName(p.DevID) == id.tap
	})
}

// forget removes the services that have ended. A vif that vanished before it could be opened
// counts as absent until the next list.
func (s *supervisor) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.services = slices.DeleteFunc(s.services, func(v *service) bool {
		if !v.ended() {
			return false
		}
		if devid := v.identity().devid; v.vanished {
			s.present = slices.DeleteFunc(slices.Clone(s.present), func(p netfront.Vif) bool { return p.DevID == devid })
		}
		return true
	})
}

// startMissing starts a service for each vif that has none. If a service with the same number
// or TAP is stopping, the vif has its turn when that has ended.
func (s *supervisor) startMissing(ctx context.Context, served map[int]bool) {
	for _, p := range s.present {
		table, ok := s.cfg.Load().For(p.DevID, p.MAC)
		stopping := slices.ContainsFunc(s.services, func(v *service) bool {
			id := v.identity()
			return v.stopping && (id.devid == p.DevID || id.tap == table.TAPName(p.DevID))
		})
		if !ok || served[p.DevID] || stopping {
			continue
		}
		vif := s.make(table, p.DevID, p.MAC)
		log := netfront.WithTAP(s.log.With(zap.Int("vif", p.DevID)), table.TAPName(p.DevID), func() string {
			if f := vif.frontend(); f != nil {
				return f.Name()
			}
			return ""
		})
		v := startService(ctx, vif, log, s.begin, s.poke)
		s.mu.Lock()
		s.services = append(s.services, v)
		s.mu.Unlock()
	}
}

// note notes the tables that fit no vif, and logs each once.
func (s *supervisor) note(now time.Time) {
	var list []waiting
	for _, table := range s.cfg.Load().Vifs {
		used := slices.ContainsFunc(s.services, func(v *service) bool {
			return v.identity().table.Match == table.Match
		})
		if used {
			continue
		}
		w := waiting{match: table.Match, since: now, has: s.present}
		if i := slices.IndexFunc(s.waiting, func(o waiting) bool { return o.match == table.Match }); i >= 0 {
			w.since = s.waiting[i].since
		} else {
			s.log.Warn("waiting for the vif", zap.Stringer("vif", table.Match), zap.String("now", guestvif.Have(table.Match, s.present)), logging.Event(eventVifWanted))
		}
		list = append(list, w)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = list
}

// reload puts another configuration into force. A vif goes on if nothing of its table
// changes. The others are closed, and are opened again if they are still configured.
func (s *supervisor) reload(cfg config.Config) {
	for _, v := range s.services {
		id := v.identity()
		next, ok := cfg.For(id.devid, id.mac)
		switch {
		case !ok:
			v.log.Info("not served any more: the configuration has no such vif", logging.Event(eventVifLeft))
			v.stop(nil)
		case (next.TAP == id.table.TAP || next.TAPName(id.devid) == id.tap) && next.SameAs(&id.table):
			v.setTable(next)
		default:
			v.log.Info("served anew: its configuration has changed", logging.Event(eventVifLeft))
			v.stop(nil)
		}
	}
	s.cfg.Store(&cfg)
}

// stop stops every service and waits for all of them. With [netfront.ErrLeave] as the cause
// they leave their vifs to the next process.
func (s *supervisor) stop(cause error) {
	s.stopEach(func(*service) error { return cause })
}

// stopEach is [supervisor.stop] with a cause for each vif.
func (s *supervisor) stopEach(cause func(*service) error) {
	for _, v := range s.services {
		v.stop(cause(v))
	}
	for _, v := range s.services {
		<-v.done
	}
	s.forget()
}

// snapshot returns the services, and the tables whose vifs the daemon waits for.
func (s *supervisor) snapshot() ([]*service, []waiting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.services), slices.Clone(s.waiting)
}

// alive fails unless the supervisor and every worker of every vif answer within
// timeout.
func (s *supervisor) alive(timeout time.Duration) error {
	limit := time.After(timeout)
	pong := make(chan struct{})
	select {
	case s.pings <- pong:
	case <-limit:
		return errors.New("the supervisor does not answer")
	}
	services, _ := s.snapshot()
	errs := make([]error, len(services))
	var all sync.WaitGroup
	for i, v := range services {
		all.Go(func() {
			if err := v.alive(timeout); err != nil {
				errs[i] = fmt.Errorf("vif %d: %w", v.identity().devid, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
