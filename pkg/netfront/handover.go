package netfront

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// Holder keeps descriptors while no process uses them, in bundles with a key and a
// label. It is another process, so that it outlives this one however that ends.
// A call that fails because the holder is away is made up for when it is back.
type Holder interface {
	// Put keeps duplicates of files, in the place of what key had.
	Put(key, label string, files []HeldFile) error
	// Get returns duplicates, which the caller owns. It fails with [fs.ErrNotExist] if
	// there is nothing under key.
	Get(key string) (label string, files []HeldFile, err error)
	// Drop closes the holder's descriptors under key. Nothing there is no error.
	Drop(key string) error
	// Park keeps the bundle for ever, and frees its key. From then on the descriptors
	// stay open somewhere, whatever the error.
	Park(key string) error
}

// HeldFile is one descriptor of a bundle.
type HeldFile struct {
	Name string
	FD   int
}

// Bundles of a vif, behind its key.
const (
	// KeyConnection has "state", which [CheckState] reads, and "grants". Its label is the
	// vif's number. It stays while there is no connection, for the pages that the next one
	// is to have.
	KeyConnection = "/connection"
	keyTAP        = "/tap" // "keeper" and "queue-<n>"
	// keyEvents has "events-<n>": of each pair tx's, and rx's if it has its own. The
	// label is their session's marker, path and value, for a process that cannot read
	// the state.
	keyEvents = "/events"
)

// ErrLeave, as the cause for which the context of [Device.Run] ended, means that the
// next process goes on: the backend is told nothing, rings, grants, event channels and
// the TAP stay with the holder as they are.
var ErrLeave = errors.New("left to the next process")

// errRestored says that a connection was of an earlier life of the guest.
var errRestored = errors.New("the guest was restored")

func leaving(ctx context.Context) bool { return errors.Is(context.Cause(ctx), ErrLeave) }

// CheckState tells whether this program can go on with the state file in fd, which
// another one has written, with [ErrHandover] if not. Fd stays the caller's.
func CheckState(fd int) error {
	d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHandover, err)
	}
	f, err := openStateFile(d)
	if err != nil {
		return errors.Join(err, unix.Close(d))
	}
	return f.close()
}

func (d *Device) key(of string) string { return d.cfg.HoldKey + of }

// hold gives the holder what the next process needs to go on with s, before the backend
// hears of its rings.
func (d *Device) hold(a address, agreed agreement, s *session) {
	if d.cfg.Holder == nil {
		return
	}
	err := d.describe(a, agreed, s)
	if err == nil {
		err = d.handOver(s)
	}
	if err != nil {
		d.log.Warn("a restart will need a new connection: nobody keeps this one", problem(err), event(EventNotHeld))
		return
	}
	s.held, s.granted.held = true, true
}

// describe writes what does not change into the state file.
func (d *Device) describe(a address, agreed agreement, s *session) error {
	h := s.file.head
	h.Backend, h.Features = uint32(a.domid), agreed.Features.bits()
	h.Workers, h.MTU, h.Wanted = uint32(len(s.pairs[0].workers)), uint32(d.set.MTU), d.cfg.wanted()
	if err := errors.Join(h.Nonce.set(s.granted.nonce), h.Dir.set(a.dir), h.Path.set(a.backend)); err != nil {
		return err
	}
	s.file.seal()
	s.file.setPhase(phaseLive)
	return nil
}

// handOver gives the holder all descriptors of s.
func (d *Device) handOver(s *session) (err error) {
	var files []HeldFile // duplicates, of which the holder makes its own
	defer func() { err = errors.Join(err, closeFiles(files)) }()
	for _, p := range s.pairs {
		for _, w := range p.workers {
			fd, err := w.events.Handle()
			if err != nil {
				return err
			}
			files = append(files, HeldFile{Name: "events-" + strconv.Itoa(len(files)), FD: fd})
		}
	}
	events := len(files)
	fd, err := s.granted.grants.Handle()
	if err != nil {
		return err
	}
	files = append(files, HeldFile{Name: "grants", FD: fd})
	crashPoint(crashHold)
	if err := d.cfg.Holder.Put(d.key(keyEvents), s.granted.marker+" "+s.granted.nonce, files[:events]); err != nil {
		return err
	}
	crashPoint(crashHeldEvents)
	connection := []HeldFile{{Name: "state", FD: s.file.fd}, files[events]}
	return d.cfg.Holder.Put(d.key(KeyConnection), s.number, connection)
}

// forget tells the holder that a bundle is not needed any more.
func (d *Device) forget(key string) {
	if d.cfg.Holder == nil {
		return
	}
	if err := d.cfg.Holder.Drop(d.key(key)); err != nil {
		d.log.Warn("the holder was not told", zap.String("key", d.key(key)), problem(err), event(EventNotHeld))
	}
}

// drop ends s for good. The holder keeps its state, which says where the pages are, until
// they are given back or another session has them.
func (d *Device) drop(s *session) error {
	var cause error
	if restored(d.guest.Store, s.granted.marker, s.granted.nonce) {
		cause = errRestored
		d.poison(s)
	}
	s.file.setPhase(phaseEnded)
	crashPoint(crashEnd)
	d.forget(keyEvents)
	err := s.close()
	if cause != nil {
		err = errors.Join(err, d.ungrant("the guest was restored"))
	}
	return errors.Join(cause, err)
}

// poison sees to it that the event files of a session from before a restore are never
// closed for the last time.
func (d *Device) poison(s *session) {
	if s.held {
		d.park()
		return
	}
	if d.cfg.Holder != nil {
		if err := d.handOver(s); err == nil {
			d.park()
			return
		}
	}
	d.log.Error("the guest was restored, and nobody keeps its old event channels: they stay open here, "+
		"and the end of this process will be an error in the guest's kernel", event(EventNotParked))
	for _, p := range s.pairs {
		for _, w := range p.workers {
			d.immortals = append(d.immortals, w.events)
			w.events = immortal{w.events}
		}
	}
}

// immortal is an event file that is not closed.
type immortal struct{ xen.EventFile }

func (immortal) Close() error { return nil }

// park has the holder keep the event files for ever.
func (d *Device) park() {
	d.log.Info("the guest was restored: its old event channels are parked for ever", event(EventParked))
	if err := d.cfg.Holder.Park(d.key(keyEvents)); err != nil {
		d.log.Warn("the holder was not told", zap.String("key", d.key(keyEvents)), problem(err), event(EventNotHeld))
	}
}

// openLink adopts the TAP that the last process left, or creates one.
func (d *Device) openLink() error {
	if d.cfg.Holder != nil {
		if err := d.adoptLink(); err == nil {
			d.left = d.findLegacy()
			return nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			d.log.Warn("a new TAP: the one of the last process cannot be had", problem(err), event(EventNotTakenOver))
		}
		d.discard(d.findLegacy()) // rings without their TAP
		d.forget(keyTAP)
	}
	var err error
	if d.link, err = newLink(d.cfg, d.id); err != nil {
		return err
	}
	d.set = settings{MAC: d.id.mac.String(), MTU: d.cfg.mtu(d.id), Config: d.cfg.MTU, QueueLen: d.cfg.TxQueueLen}
	d.holdLink()
	return nil
}

// adoptLink makes the Device's link of the descriptors that the holder has.
func (d *Device) adoptLink() error {
	label, files, err := d.cfg.Holder.Get(d.key(keyTAP))
	if err != nil {
		return err
	}
	keeper, queues := -1, make([]int, 0, len(files))
	for i, f := range files {
		if f.Name == "keeper" {
			keeper = f.FD
		} else if f.Name == "queue-"+strconv.Itoa(len(queues)) {
			queues = append(queues, f.FD)
		} else {
			err = fmt.Errorf("descriptor %d is called %q", i, f.Name)
		}
	}
	if err == nil {
		d.link, err = tap.Adopt(tap.Config{Privileged: d.cfg.Privileged}, keeper, queues)
	}
	if err != nil {
		return errors.Join(err, closeFiles(files))
	}
	if d.set = settingsOf(label); d.set.MAC == "" {
		d.set.MAC = d.id.mac.String() // of another version, whose TAP has it most likely
	}
	return nil
}

// holdLink gives the holder the TAP's descriptors as they are now.
func (d *Device) holdLink() {
	if d.cfg.Holder == nil {
		return
	}
	files := []HeldFile{{Name: "keeper", FD: d.link.KeeperFD()}}
	for i, fd := range d.link.QueueFDs() {
		files = append(files, HeldFile{Name: "queue-" + strconv.Itoa(i), FD: fd})
	}
	if err := d.cfg.Holder.Put(d.key(keyTAP), d.set.label(d.link.Name()), files); err != nil {
		d.log.Warn("a restart will need a new TAP: nobody keeps this one", problem(err), event(EventNotHeld))
	}
}

// setQueues opens or closes queues of the TAP so that there are n, and the holder has
// them, too. Those that cannot be opened in another network namespace are done without.
func (d *Device) setQueues(n int) ([]*tap.Queue, error) {
	before := len(d.link.QueueFDs())
	queues, err := d.link.SetQueues(n)
	if errors.Is(err, tap.ErrElsewhere) && len(queues) > 0 {
		d.log.Warn("fewer queues: the TAP is in another network namespace", zap.Int("queues", len(queues)), problem(err), event(EventKept))
		err = nil
	}
	if before != n || err != nil {
		d.holdLink()
	}
	return queues, err
}

func closeFiles(files []HeldFile) error {
	var err error
	for _, f := range files {
		err = errors.Join(err, unix.Close(f.FD))
	}
	return err
}

// legacy is a session that another process has left, as descriptors.
type legacy struct {
	marker, nonce string
	events        []HeldFile
	state         []HeldFile // state and grants
}

// findLegacy gets what the holder has under key; nil is nothing. With an error there is
// more, which cannot be had.
func findLegacy(h Holder, key string) (*legacy, error) {
	_, state, err := h.Get(key + KeyConnection)
	label, events, eventsErr := h.Get(key + keyEvents)
	l := &legacy{state: state, events: events}
	l.marker, l.nonce, _ = strings.Cut(label, " ")
	if err != nil && eventsErr != nil {
		l = nil
	}
	var lost error
	for _, err := range []error{err, eventsErr} {
		if !errors.Is(err, fs.ErrNotExist) {
			lost = errors.Join(lost, err)
		}
	}
	return l, lost
}

// findLegacy gets what the holder has of this vif.
func (d *Device) findLegacy() *legacy {
	l, err := findLegacy(d.cfg.Holder, d.cfg.HoldKey)
	if err != nil {
		d.log.Warn("what the last process left cannot be had", problem(err), event(EventNotTakenOver))
	}
	return l
}

// close closes this process's descriptors of l.
func (l *legacy) close() error {
	if l == nil {
		return nil
	}
	return errors.Join(closeFiles(l.events), closeFiles(l.state))
}

// end ends a session of another process: grants and event channels go with the last
// descriptors, except that event files from before a restore stay with the holder.
func (l *legacy) end(s xen.Store, h Holder, key string) error {
	if l == nil {
		return nil
	}
	return errors.Join(h.Drop(key+KeyConnection), l.endEvents(s, h, key))
}

// endEvents is end, except that the holder keeps the state and the grants.
func (l *legacy) endEvents(s xen.Store, h Holder, key string) error {
	var err error
	if len(l.events) > 0 && restored(s, l.marker, l.nonce) {
		err = h.Park(key + keyEvents)
	}
	return errors.Join(err, h.Drop(key+keyEvents), l.close())
}

// discard ends a session of another process that cannot be gone on with. A connection to the
// same domain will have its pages.
func (d *Device) discard(l *legacy) {
	end := l.end
	if d.salvage(l) {
		end = l.endEvents
	}
	if err := end(d.guest.Store, d.cfg.Holder, d.cfg.HoldKey); err != nil {
		d.log.Warn("what the last process left was not ended cleanly", problem(err), event(EventNotTakenOver))
	}
}

// Discard ends all that a process has left under key of a vif that nobody will go on
// with: rings, event channels, TAP. Whoever calls it has seen to it that no process
// serves the vif, and that the backend has let go.
func Discard(s xen.Store, h Holder, key string) error {
	l, err := findLegacy(h, key)
	return errors.Join(err, l.end(s, h, key), h.Drop(key+keyTAP))
}

// takeOver goes on with the session that the last process left, if it did, and serves it
// to its end. Done is false if there was none, or none that can be gone on with.
func (d *Device) takeOver(ctx context.Context) (done bool, err error) {
	l := d.left
	d.left = nil
	if l == nil {
		return false, nil
	}
	a, err := d.find(ctx)
	if err != nil && !errors.Is(err, ErrNoVif) {
		d.left = l // to be tried again
		return true, err
	}
	if err == nil {
		err = d.resume(ctx, a, l)
		var refused *refusal
		if !errors.As(err, &refused) {
			return true, err
		}
	}
	if leaving(ctx) {
		return true, l.close()
	}
	if !errors.Is(err, errPagesOnly) {
		d.log.Warn("a new connection: what the last process left cannot be gone on with", problem(err), event(EventNotTakenOver))
	}
	d.discard(l)
	return false, nil
}

// refusal is why a session was not taken over; its descriptors are the caller's still.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// resume takes over l, whose backend should be a, and serves it to its end.
func (d *Device) resume(ctx context.Context, a address, l *legacy) (err error) {
	b, err := openBus(ctx, d.guest.Store, a, d.setBackendState)
	if err != nil {
		return &refusal{err}
	}
	defer b.close()
	s, attached, err := d.adopt(ctx, b, l)
	if err != nil {
		return &refusal{err}
	}
	defer func() { err = errors.Join(err, d.end(ctx, b, s, err)) }() // for a panic too
	features := featuresOf(s.file.head.Features)
	if d.set.MTU == 0 {
		d.set.MTU = int(s.file.head.MTU)
	}
	if !d.set.Offered { // of another version, which has set them
		d.set.Offload, d.set.Offered = offloadOf(features)&d.link.ProbeOffload(), true
	}
	if err := d.configureLink(features); err != nil {
		return err
	}
	d.setAddress(a)
	if err := d.plug.set(ctx, d.guest.Store, a.dir); err != nil {
		return err
	}
	d.meet(a.domid)
	agreed := d.agreement(ctx, b, features, len(s.pairs))
	b.removes = agreed.removes
	d.setPairs(s.pairs, agreed)
	d.update(func(v *view) { v.takenOver = true })
	d.setState(netif.StateConnected, nil)
	failed := s.start()
	if d.Alive(time.Second) == nil {
		s.file.works()
	}
	if _, err := d.noteDisabled(ctx, b); err != nil {
		return err
	}
	if err := d.link.SetCarrier(attached && !d.disabled); err != nil {
		return err
	}
	if attached && !d.disabled {
		d.announce.resume(s.pairs[0].workers[0])
	}
	d.log.Info("taken over from the last process", zap.Uint16("backend", uint16(b.domid)),
		zap.Int("queues", len(s.pairs)), zap.Strings("features", features.Names()), event(EventTakenOver))
	shape := d.resumeShaping(s.pairs, d.rate(ctx, b))
	return d.monitor(ctx, b, s.pairs, failed, shape, attached, false)
}

// agreement is what was agreed by the process before, with the reasons for what is
// missing as far as the backend's offer still tells.
func (d *Device) agreement(ctx context.Context, b *bus, f Features, queues int) agreement {
	a := agreement{missing: map[string]string{}}
	if o, err := readOffer(ctx, b.store, b.backend); err == nil {
		if again, err := negotiate(d.cfg.Features, d.cfg.Queues, o); err == nil {
			a = again
		}
	}
	a.Features, a.queues = f, queues
	return a
}
