package netfront

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// session is what one connection has: its queue pairs, and where the next process finds
// them. It belongs to the Device's goroutine.
type session struct {
	pairs   []*pair
	file    *stateFile
	granted *granted // the pages, which outlast it
	number  string   // of the vif
	held    bool     // the holder has all of it
}

// newNonce marks a session of one life of the domain.
func newNonce() string { return rand.Text() }

// markerPath is where a vif's sessions leave their marker. It is in the part of its home
// that the guest may write, which is made anew, empty, when the domain is restored or
// has migrated, and not when a vif is attached anew: so it tells the two apart, which
// look alike from the vif's directory. The guest's number would not do: it may be the
// same again.
func markerPath(dir string) string {
	return "data/xnetfrontd-" + strings.ReplaceAll(strings.TrimPrefix(dir, "device/"), "/", "-")
}

// mark leaves the marker of the sessions on these pages, once: a restore from then on must
// show. Where the guest has no place for it, every end of a connection looks like a restore,
// which costs a few descriptors.
func (g *granted) mark(ctx context.Context, st xenstore.Operations) error {
	err := st.Write(ctx, g.marker, g.nonce)
	if errors.Is(err, xenstore.ErrPermission) || errors.Is(err, xenstore.ErrNotFound) {
		return nil
	}
	return err
}

// markerTimeout bounds the look at a marker.
const markerTimeout = time.Second

// restored tells whether the guest was saved and restored, or has migrated, since a
// session left its marker: then its event channels are dead, and their descriptors are
// never given up (docs/kernel-bugs). It is true when that cannot be found out.
func restored(s xen.Store, marker, nonce string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), markerTimeout)
	defer cancel()
	v, err := s.Read(ctx, marker)
	return err != nil || v != nonce
}

// start lets the workers run. The channel gets the error of each that fails.
func (s *session) start() <-chan error {
	failed := make(chan error, 2*len(s.pairs))
	for _, p := range s.pairs {
		p.start(func(err error) { failed <- err })
	}
	return failed
}

// stop ends the workers and waits for them.
func (s *session) stop() {
	for _, p := range s.pairs {
		p.stop()
	}
}

// close frees everything but the pages. The workers must be stopped.
func (s *session) close() error {
	var errs []error
	for _, p := range s.pairs {
		errs = append(errs, p.close())
	}
	if s.file != nil {
		errs = append(errs, s.file.close())
	}
	return errors.Join(errs...)
}

// detach stops the workers and closes what this process has of the session but the pages. It
// goes on without this process.
func (s *session) detach() error {
	s.stop()
	crashPoint(crashLeave)
	var errs []error
	for _, p := range s.pairs {
		errs = append(errs, p.detach())
	}
	return errors.Join(append(errs, s.file.close())...)
}

// published checks that what the store says of our rings is what the session has.
func (s *session) published(ctx context.Context, st xenstore.Operations, dir string) error {
	for k, want := range ringKeys(s.pairs) {
		v, err := st.Read(ctx, dir+"/"+k)
		if err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		if v != want {
			return fmt.Errorf("%s is %s, and was %s", k, strconv.Quote(v), want)
		}
	}
	return nil
}
