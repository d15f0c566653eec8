package main

import (
	"context"
	"errors"
	"slices"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// look tells whether the vifs are to be listed though no event has come, which all
// programs of a guest do without while a driver of its kernel's waits where it should pass
// them on. It probes whether that is so.
func (s *scanner) look(ctx context.Context) (changed bool, err error) {
	late, err := s.watches.Probe(ctx, s.guest.Store)
	if errors.Is(err, xenstore.ErrClosed) {
		return false, err
	}
	// Any other is that the guest has no watch to spare: the probe is tried again.
	if late {
		s.log.Warn("xenstore's events do not come: a driver of this guest's kernel waits for its backend, see dmesg", event(eventLate))
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

// answered takes the event that the probe has waited for. It is none when ok is false: the
// probe is lost, and the next look makes another.
func (s *scanner) answered(ok bool) {
	if !ok {
		s.watches.End()
		return
	}
	if late := s.watches.Answered(); late > 0 {
		s.log.Info("xenstore's events come again", zap.Duration("for", late), event(eventInTime))
	}
}
