package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// vifDir is where a guest's vifs are in its home.
const vifDir = "device/vif"

// firstScanLimit is how long xenstore may take to tell the vifs at the start.
const firstScanLimit = 10 * time.Second

// scanner lists the guest's vifs, at the start and whenever something happens there.
// It has a connection to xenstore of its own.
type scanner struct {
	place
	guest *xen.Guest
	watch *xenstore.PacedWatch
	seen  []int // numbers of the vifs when they were last looked at
}

// open connects and returns the first list.
func (s *scanner) open(ctx context.Context) (vifs []netfront.Vif, err error) {
	if s.guest, err = s.xen.open(s.sys); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, firstScanLimit)
	defer cancel()
	// Paced, for backends write below it.
	if s.watch, err = xenstore.WatchPaced(ctx, s.guest.Store, vifDir); err == nil {
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

// run sends a list after every change, until ctx ends. When the connection is lost it
// makes another; what is served goes on meanwhile.
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
		s.log.Warn("the guest's vifs are not watched", problem(err), zap.Duration("retry_in", pause), event(eventUnwatched))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// follow sends lists until the connection is lost.
func (s *scanner) follow(ctx context.Context, scans chan<- []netfront.Vif) error {
	if s.guest == nil {
		vifs, err := s.open(ctx)
		if err != nil {
			return err
		}
		send(ctx, scans, vifs)
	}
	look := time.NewTimer(netfront.LookPause())
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			look.Reset(netfront.LookPause())
			if changed, err := s.look(ctx); err != nil {
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

// existing says which vifs the toolstack gave this domain, by number.
func existing(ctx context.Context, guest *xen.Guest) string {
	vifs, err := netfront.Vifs(ctx, guest.Store)
	if err != nil {
		return fmt.Sprintf("which ones there are cannot be read: %v", err)
	}
	return has(config.SelectDevID(0), vifs)
}

// has says which vifs this domain has, in the terms in which one was looked for.
func has(match config.Selector, vifs []netfront.Vif) string {
	if len(vifs) == 0 {
		return "this domain has none; attach one with `xl network-attach` in domain 0"
	}
	_, byNumber := match.DevID()
	var texts []string
	for _, v := range vifs {
		text := fmt.Sprint(v.DevID)
		if !byNumber {
			text += " (" + v.MAC.String() + ")"
		}
		texts = append(texts, text)
	}
	return "this domain has " + strings.Join(texts, ", ")
}
