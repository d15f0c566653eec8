package daemon

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/guestvif"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// firstScanLimit is how long xenstore may take to list the vifs at the start.
const firstScanLimit = 10 * time.Second

// scanner lists the guest's vifs at the start, and again after every change. It has a
// connection to xenstore of its own.
type scanner struct {
	place
	guest *xen.Guest
	watch *xenstore.PacedWatch
	seen  []int // numbers of the vifs when poll last listed them
}

// open connects, and returns the first list.
func (s *scanner) open(ctx context.Context) (vifs []netfront.Vif, err error) {
	if s.guest, err = s.xen.Open(s.sys); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, firstScanLimit)
	defer cancel()
	// Paced, since backends write below it.
	if s.watch, err = xenstore.WatchPaced(ctx, s.guest.Store, guestvif.Dir); err == nil {
		vifs, err = netfront.Vifs(ctx, s.guest.Store)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return vifs, nil
}

func (s *scanner) close() error {
	if s.guest == nil {
		return nil
	}
	var err error
	s.watches.End()
	if s.watch != nil {
		err = s.watch.Close()
	}
	err = errors.Join(err, s.guest.Close())
	s.guest, s.watch = nil, nil
	return err
}

// run sends a list after every change, until ctx ends. When it loses its connection, it makes
// another; the vifs are served meanwhile.
func (s *scanner) run(ctx context.Context, scans chan<- []netfront.Vif) {
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		began := time.Now()
		err := s.follow(ctx, scans)
		err = errors.Join(err, s.close())
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > lasting {
			wait = retryMin
		}
		pause := wait/2 + rand.N(wait/2+1)
		s.log.Warn("the guest's vifs are not watched", logging.Problem(err), zap.Duration("retry_in", pause), logging.Event(eventUnwatched))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// follow sends a list after every change, until the connection is lost.
func (s *scanner) follow(ctx context.Context, scans chan<- []netfront.Vif) error {
	if s.guest == nil {
		vifs, err := s.open(ctx)
		if err != nil {
			return err
		}
		send(ctx, scans, vifs)
	}
	poll := time.NewTimer(netfront.LookPause())
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			poll.Reset(netfront.LookPause())
			if changed, err := s.poll(ctx); err != nil {
				return err
			} else if !changed {
				continue
			}
		case _, ok := <-s.watches.Answer():
			s.answered(ok)
			continue
		case _, ok := <-s.watch.Events():
			if !ok {
				return s.watch.Err()
			}
		}
		vifs, err := netfront.Vifs(ctx, s.guest.Store)
		if err != nil {
			return err
		}
		send(ctx, scans, vifs)
	}
}

func send(ctx context.Context, scans chan<- []netfront.Vif, vifs []netfront.Vif) {
	select {
	case <-ctx.Done():
	case scans <- vifs:
	}
}

// poll tells whether to list the vifs though no event has come. All programs of a guest miss
// their events while a driver of its kernel waits for a backend in the thread that passes
// them on. poll probes whether that is so.
func (s *scanner) poll(ctx context.Context) (changed bool, err error) {
	late, err := s.watches.Probe(ctx, s.guest.Store)
	if errors.Is(err, xenstore.ErrClosed) {
		return false, err
	}
	// After any other error the guest has no watch to spare: the next poll tries again.
	if late {
		s.log.Warn("xenstore's events do not come: a driver of this guest's kernel waits for its backend, see dmesg", logging.Event(eventLate))
	}
	now, err := netfront.ListVifs(ctx, s.guest.Store)
	if err != nil {
		return false, err
	}
	slices.Sort(now)
	_, stillLate := s.watches.Late()
	changed = stillLate || !slices.Equal(now, s.seen)
	s.seen = now
	return changed, nil
}

// answered takes the event for which the probe has waited. If ok is false, the probe is lost,
// and the next poll makes another.
func (s *scanner) answered(ok bool) {
	if !ok {
		s.watches.End()
		return
	}
	if late := s.watches.Answered(); late > 0 {
		s.log.Info("xenstore's events come again", zap.Duration("for", late), logging.Event(eventInTime))
	}
}
