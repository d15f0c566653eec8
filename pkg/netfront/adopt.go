package netfront

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// maxAttempts is how many processes may die while they take over a session: what kills
// one of them may kill the next.
const maxAttempts = 5

// errPagesOnly says that the last process had no connection, and left pages for the next one.
var errPagesOnly = errors.New("there was no connection")

// adopt makes a session of l, whose descriptors are used up when it succeeds. Attached
// says whether the backend is there now: one that is being bound anew will come back to
// the same rings.
func (d *Device) adopt(ctx context.Context, b *bus, l *legacy) (s *session, attached bool, err error) {
	file, grants, err := l.openState()
	if err != nil {
		return nil, false, err
	}
	s = &session{file: file, number: b.number(), held: true}
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, s.detach())
		if s.granted != nil {
			err = errors.Join(err, s.granted.close())
		}
	}()
	h := file.head
	switch {
	case file.phase() == phaseEnded && len(l.events) == 0:
		return s, false, errPagesOnly
	case file.phase() != phaseLive:
		return s, false, fmt.Errorf("%w: its connection was being made or ended", ErrHandover)
	case h.Dir.get() != b.dir || h.Path.get() != b.backend || h.Backend != uint32(b.domid):
		return s, false, fmt.Errorf("%w: its backend was %s", ErrHandover, h.Path.get())
	case h.Nonce.get() != l.nonce || len(l.events) != int(h.Queues*h.Workers) || h.Workers < 1 || h.Workers > 2:
		return s, false, fmt.Errorf("%w: %d event files for %d queues of another session", ErrHandover, len(l.events), h.Queues)
	case !h.Wanted.same(d.cfg.wanted()):
		return s, false, fmt.Errorf("%w: its configuration was another", ErrHandover)
	case len(d.link.QueueFDs()) != int(h.Queues):
		return s, false, fmt.Errorf("%w: the TAP has %d queues, the rings %d", ErrHandover, len(d.link.QueueFDs()), h.Queues)
	}
	if restored(b.store, markerPath(b.dir), l.nonce) {
		return s, false, fmt.Errorf("%w: the guest was restored since", ErrHandover)
	}
	if attached, err = d.connectedStill(ctx, b); err != nil {
		return s, false, err
	}
	if n := file.attempt(); n >= maxAttempts {
		return s, false, fmt.Errorf("%w: %d processes tried it and died", ErrHandover, n)
	}
	crashPoint(crashAdopt)
	if s.granted, err = d.adoptGranted(file, grants); err != nil {
		return s, false, fmt.Errorf("%w: %w", ErrHandover, err)
	}
	if err := d.adoptPairs(s, xen.DomID(h.Backend), l.events); err != nil {
		return s, false, err
	}
	if err := s.published(ctx, b.store, b.dir); err != nil {
		return s, false, fmt.Errorf("%w: the store's rings are others: %w", ErrHandover, err)
	}
	crashPoint(crashAdopted)
	if err := l.close(); err != nil {
		d.log.Warn("what was taken over was not closed cleanly", problem(err))
	}
	d.setGranted(s.granted)
	return s, attached, nil
}

// adoptGranted maps the pages of the session in file, whose grants are those of the descriptor
// fd, which stays the caller's.
func (d *Device) adoptGranted(file *stateFile, fd int) (g *granted, err error) {
	h := file.head
	g = &granted{peer: xen.DomID(h.Backend), adopted: true, held: true, marker: markerPath(h.Dir.get()), nonce: h.Nonce.get()}
	if g.limit, err = d.guest.Grants.Limit(); err != nil {
		return nil, err
	}
	if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("grants: %w", err)
	}
	if g.grants, err = d.guest.Grants.Adopt(fd); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	for i := range int(h.Queues) {
		if _, err := g.remap(&file.queue(i).Record); err != nil {
			return nil, errors.Join(fmt.Errorf("queue %d: %w", i, err), g.close())
		}
	}
	return g, nil
}

// salvage has the pages of a session of another process that cannot be gone on with, and
// whose state the holder then keeps. It tells whether it has.
func (d *Device) salvage(l *legacy) bool {
	if l == nil {
		return false
	}
	file, fd, err := l.openState()
	if err != nil {
		return false
	}
	if !restored(d.guest.Store, markerPath(file.head.Dir.get()), file.head.Nonce.get()) {
		var g *granted
		if g, err = d.adoptGranted(file, fd); err == nil {
			file.setPhase(phaseEnded)
			d.setGranted(g)
		} else {
			d.log.Warn("the pages that the last process had granted cannot be had", problem(err), event(EventNotTakenOver))
		}
	}
	if err := file.close(); err != nil {
		d.log.Warn("what the last process left was not ended cleanly", problem(err), event(EventNotTakenOver))
	}
	return d.granted != nil
}

// openState maps the state, and finds the descriptor of the grants.
func (l *legacy) openState() (file *stateFile, grants int, err error) {
	state := -1
	grants = -1
	for _, f := range l.state {
		switch f.Name {
		case "state":
			state = f.FD
		case "grants":
			grants = f.FD
		}
	}
	if state < 0 || grants < 0 {
		return nil, -1, fmt.Errorf("%w: it did not hand over all of it", ErrHandover)
	}
	fd, err := unix.FcntlInt(uintptr(state), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("%w: state file: %w", ErrHandover, err)
	}
	if file, err = openStateFile(fd); err != nil {
		return nil, -1, errors.Join(err, unix.Close(fd))
	}
	return file, grants, nil
}

// connectedStill tells whether both ends are where a connection goes on, and whether the
// backend is attached now.
func (d *Device) connectedStill(ctx context.Context, b *bus) (attached bool, err error) {
	own, err := readState(ctx, b.store, b.dir)
	if err != nil {
		return false, err
	}
	peer, err := readState(ctx, b.store, b.backend)
	if err != nil {
		return false, err
	}
	d.setBackendState(peer)
	switch peer {
	case netif.StateConnected:
		attached = true
	case netif.StateInitialising, netif.StateInitWait, netif.StateInitialised:
	default:
		own = netif.StateUnknown
	}
	if own != netif.StateConnected {
		return false, fmt.Errorf("%w: the vif is not connected any more, the backend is %v", ErrHandover, peer)
	}
	return attached, nil
}

// adoptPairs takes over every queue pair.
func (d *Device) adoptPairs(s *session, backend xen.DomID, events []HeldFile) error {
	h := s.file.head
	queues, err := d.link.SetQueues(int(h.Queues))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHandover, err)
	}
	c := pairConfig{guest: d.guest, grants: s.granted.grants, backend: backend, features: featuresOf(h.Features), oneWorker: h.Workers == 1, clock: &d.clock}
	if c.workers() != int(h.Workers) {
		return fmt.Errorf("%w: %d workers for a queue", ErrHandover, h.Workers)
	}
	for i, q := range queues {
		files, err := d.adoptEvents(events[i*int(h.Workers):(i+1)*int(h.Workers)], i*int(h.Workers))
		if err != nil {
			return fmt.Errorf("%w: queue %d: %w", ErrHandover, i, err)
		}
		p, err := adoptPair(c, s.granted.pairs[i], files, i, q, s.file.memory(i))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrHandover, err)
		}
		s.pairs = append(s.pairs, p)
	}
	return nil
}

// adoptEvents makes event files of duplicates of a pair's descriptors, of which the first
// has number first.
func (d *Device) adoptEvents(held []HeldFile, first int) (files []xen.EventFile, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				err = errors.Join(err, f.Close())
			}
		}
	}()
	for i, h := range held {
		if h.Name != "events-"+strconv.Itoa(first+i) {
			return files, fmt.Errorf("descriptor %q in the place of event file %d", h.Name, first+i)
		}
		fd, err := unix.FcntlInt(uintptr(h.FD), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return files, err
		}
		f, err := d.guest.Events.Adopt(fd)
		if err != nil {
			return files, errors.Join(err, unix.Close(fd))
		}
		files = append(files, f)
	}
	return files, nil
}
