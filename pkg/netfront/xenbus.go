package netfront

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// ErrNoVif says that the toolstack has not given this guest the vif.
var ErrNoVif = errors.New("no such vif")

// errBackend says that a vif's nodes do not tell where its backend is.
var errBackend = errors.New("no usable backend")

// vifDir is where a domain's vifs are in xenstore.
const vifDir = "device/vif"

// ListVifs returns the numbers of the vifs that the guest has.
func ListVifs(ctx context.Context, s xen.Store) ([]int, error) {
	names, err := s.Directory(ctx, vifDir)
	if errors.Is(err, xenstore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list vifs: %w", err)
	}
	var ids []int
	for _, n := range names {
		if id, err := strconv.Atoi(n); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// address is where a vif's two ends are.
type address struct {
	dir     string // ours, relative to the guest's home
	backend string // the backend's, absolute
	domid   xen.DomID
}

// number is the vif's, as its directory has it.
func (a address) number() string { return strings.TrimPrefix(a.dir, vifDir+"/") }

// findVif reads where vif devid's backend is.
func findVif(ctx context.Context, s xenstore.Operations, devid int) (address, error) {
	a := address{dir: vifDir + "/" + strconv.Itoa(devid)}
	backend, err := s.Read(ctx, a.dir+"/"+netif.KeyBackend)
	if err == nil {
		var id string
		if id, err = s.Read(ctx, a.dir+"/"+netif.KeyBackendID); err == nil {
			n, perr := strconv.ParseUint(id, 10, 15)
			if perr != nil {
				return a, fmt.Errorf("%w: %s/%s is %q, want a domain's number", errBackend, a.dir, netif.KeyBackendID, id)
			}
			a.backend, a.domid = backend, xen.DomID(n)
			return a, nil
		}
	}
	if errors.Is(err, xenstore.ErrNotFound) {
		return a, fmt.Errorf("vif %d: %w", devid, ErrNoVif)
	}
	return a, fmt.Errorf("find vif %d: %w", devid, err)
}

// identity is what the toolstack says of a vif, apart from the rings.
type identity struct {
	mac net.HardwareAddr
	mtu int // 0 if it says nothing, or nothing that can be used
	// refused is what it says of the MTU if that is not used as it is, refusedMAC that it says
	// no address.
	refused, refusedMAC string
}

// readIdentity reads the MAC address and the MTU, from our directory or else from
// the backend's. Without an address there is no TAP; without an MTU there is. With
// errIdentity, the MTU was read all the same.
func readIdentity(ctx context.Context, s xenstore.Operations, a address) (id identity, err error) {
	mac, noMAC := readMAC(ctx, s, a)
	if noMAC != nil && !errors.Is(noMAC, errIdentity) {
		return id, noMAC
	}
	id.mac = mac
	v, err := readEither(ctx, s, a, netif.KeyMTU)
	if isLost(ctx, err) {
		return id, err
	}
	if err != nil {
		id.refused = err.Error()
	} else if v != "" {
		id.mtu, id.refused = parseMTU(a, v)
	}
	return id, noMAC
}

// leastMTU is the least MTU that is taken from the toolstack, in whose name the backend's
// domain can write: with a smaller one Linux takes IPv6 off the link, with all its addresses
// and routes (IPV6_MIN_MTU in addrconf_notify of net/ipv6/addrconf.c). The configuration can
// have a smaller one.
const leastMTU = 1280

// maxShown is how much of a value is shown that cannot be used.
const maxShown = 32

// parseMTU reads what the toolstack says: an MTU that is too small is the least one, and
// what is none is 0.
func parseMTU(a address, v string) (mtu int, refused string) {
	mtu, err := strconv.Atoi(v)
	if err == nil && mtu >= leastMTU && mtu <= maxMTU {
		return mtu, ""
	}
	if err == nil && mtu >= minMTU && mtu < leastMTU {
		mtu = leastMTU
	} else {
		mtu = 0
	}
	if len(v) > maxShown {
		v = v[:maxShown] + "..."
	}
	return mtu, fmt.Sprintf("%s/%s is %q, want %d to %d", a.dir, netif.KeyMTU, v, leastMTU, maxMTU)
}

// isLost tells whether an error is not about what was read: xenstore is lost, or ctx has
// ended.
func isLost(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || errors.Is(err, xenstore.ErrClosed))
}

func readEither(ctx context.Context, s xenstore.Operations, a address, key string) (string, error) {
	for _, dir := range []string{a.dir, a.backend} {
		v, err := s.Read(ctx, dir+"/"+key)
		if err == nil && v != "" {
			return strings.TrimSpace(v), nil
		}
		if err != nil && !errors.Is(err, xenstore.ErrNotFound) && !errors.Is(err, xenstore.ErrPermission) {
			return "", fmt.Errorf("read %s/%s: %w", dir, key, err)
		}
	}
	return "", nil
}

// readState reads a state node. One that is missing or no state is Unknown: the
// device is gone, or is not set up yet.
func readState(ctx context.Context, s xenstore.Operations, dir string) (netif.State, error) {
	v, err := s.Read(ctx, dir+"/"+netif.KeyState)
	if errors.Is(err, xenstore.ErrNotFound) || errors.Is(err, xenstore.ErrPermission) {
		return netif.StateUnknown, nil
	}
	if err != nil {
		return netif.StateUnknown, fmt.Errorf("read state of %s: %w", dir, err)
	}
	st, err := netif.ParseState(strings.TrimSpace(v))
	if err != nil {
		return netif.StateUnknown, nil
	}
	return st, nil
}

// bus is one vif's connection to xenstore, for the time that it has one backend.
type bus struct {
	store xen.Store
	address
	backendWatch *xenstore.PacedWatch // the backend's state
	moveWatch    *xenstore.PacedWatch // our backend node: the vif is gone, or has another backend
	saw          func(netif.State)    // told each state of the backend's that was waited through
	awaits       func(what string)    // told what is waited for without an end; empty: it came, or is given up
	rateRefused  bool                 // the backend's rate was no good, and that was said
	removes      bool                 // the backend removes its directory when we close
	once         bool                 // offer gives up with ErrGone where there is no backend

	looks looks       // at a backend that is waited for
	last  netif.State // as await saw it last
}

func openBus(ctx context.Context, s xen.Store, a address, saw func(netif.State)) (*bus, error) {
	b := &bus{store: s, address: a, saw: saw, awaits: func(string) {}}
	var err error
	if b.moveWatch, err = xenstore.WatchPaced(ctx, s, a.dir+"/"+netif.KeyBackend); err != nil {
		return nil, fmt.Errorf("watch vif: %w", err)
	}
	if b.backendWatch, err = xenstore.WatchPaced(ctx, s, a.backend+"/"+netif.KeyState); err != nil {
		return nil, errors.Join(fmt.Errorf("watch backend: %w", err), b.moveWatch.Close())
	}
	return b, nil
}

func (b *bus) close() error { return errors.Join(b.backendWatch.Close(), b.moveWatch.Close()) }

// errMoved says that the vif is gone or has another backend.
var errMoved = errors.New("the vif was detached, or has another backend")

// moved tells whether the vif's backend is still where it was.
func (b *bus) moved(ctx context.Context) error { return moved(ctx, b.store, b.address) }

func moved(ctx context.Context, s xenstore.Operations, a address) error {
	v, err := s.Read(ctx, a.dir+"/"+netif.KeyBackend)
	if errors.Is(err, xenstore.ErrNotFound) || (err == nil && v != a.backend) {
		return errMoved
	}
	return err
}

func (b *bus) setState(ctx context.Context, st netif.State) error {
	if err := b.store.Write(ctx, b.dir+"/"+netif.KeyState, strconv.Itoa(int(st))); err != nil {
		return fmt.Errorf("set state %v: %w", st, err)
	}
	return nil
}

// errTimeout says that the backend did not get to a state in time.
var errTimeout = errors.New("the backend did not answer in time")

// await waits until the backend's state is one of want, by events and by looks, should
// they be late. It gives up with errTimeout after timeout, if that is above zero.
func (b *bus) await(ctx context.Context, timeout time.Duration, want ...netif.State) (netif.State, error) {
	var expired <-chan time.Time
	if timeout > 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		expired = t.C
	}
	for {
		st, err := readState(ctx, b.store, b.backend)
		if err != nil {
			return st, err
		}
		b.saw(st)
		for _, w := range want {
			if st == w {
				return st, nil
			}
		}
		if st != b.last {
			b.looks.progress()
		}
		b.last = st
		select {
		case <-ctx.Done():
			return st, ctx.Err()
		case <-expired:
			return st, fmt.Errorf("%w: it is %v", errTimeout, st)
		case <-time.After(b.looks.next()):
			if err := b.moved(ctx); err != nil {
				return st, err
			}
		case _, ok := <-b.backendWatch.Events():
			if !ok {
				return st, fmt.Errorf("watch of the backend's state: %w", b.backendWatch.Err())
			}
		case _, ok := <-b.moveWatch.Events():
			if !ok {
				return st, fmt.Errorf("watch of the vif: %w", b.moveWatch.Err())
			}
			if err := b.moved(ctx); err != nil {
				return st, err
			}
		}
	}
}

// Times that the walk waits for a backend. A live one answers in milliseconds; on
// an emulated machine in a second.
const (
	walkTimeout  = 5 * time.Second
	retryInitial = 5 * time.Second
)

// reset brings the vif from whatever its last owner left (rings of a process that
// was killed, a half-done connect) to Initialising with the backend in InitWait:
// Closing, Closed, Initialising. Writing Connected again on a dirty vif would do
// nothing, since netback acts on changes only.
func (b *bus) reset(ctx context.Context) error {
	if err := b.shutDirty(ctx); err != nil {
		return err
	}
	return b.offer(ctx)
}

// shutDirty closes both ends, unless nothing is left of a frontend's. It never closes what
// is closed: a backend that is Closed follows a Closing late, or takes it for the end of
// what comes next.
func (b *bus) shutDirty(ctx context.Context) error {
	own, err := readState(ctx, b.store, b.dir)
	if err != nil {
		return err
	}
	peer, err := readState(ctx, b.store, b.backend)
	if err != nil {
		return err
	}
	switch {
	case own == netif.StateInitialising && (peer == netif.StateInitialising || peer == netif.StateInitWait || peer == netif.StateClosed):
		return nil // a backend that is Closed is on its way, or waits to be told again
	case own == netif.StateClosed && peer == netif.StateClosed:
		return nil
	case own == netif.StateClosed && peer == netif.StateClosing:
		return b.awaitClosed(ctx, walkTimeout)
	}
	return b.shut(ctx, walkTimeout)
}

// offer says Initialising until the backend waits for a frontend.
func (b *bus) offer(ctx context.Context) error {
	defer b.awaits("")
	want := []netif.State{netif.StateInitWait, netif.StateClosing}
	if b.once {
		want = append(want, netif.StateUnknown)
	}
	for {
		if err := b.setState(ctx, netif.StateInitialising); err != nil {
			return err
		}
		st, err := b.await(ctx, retryInitial, want...)
		if err == nil && st == netif.StateUnknown {
			return fmt.Errorf("%w: there is no %s in domain %d", ErrGone, b.backend, b.domid)
		}
		if err == nil && st == netif.StateClosing {
			// A toolstack that takes the vif away waits for us to close it.
			return errors.Join(fmt.Errorf("%w: it is %v", errBackendClosed, st), b.shut(ctx, walkTimeout))
		}
		if !errors.Is(err, errTimeout) {
			return err
		}
		b.awaits(b.lacks(st, netif.StateInitWait))
		// Written again: a backend that started in between has missed the change.
	}
}

// awaitConnected waits without an end until the backend has taken up the rings, or closes.
func (b *bus) awaitConnected(ctx context.Context) (netif.State, error) {
	defer b.awaits("")
	for {
		st, err := b.await(ctx, retryInitial, netif.StateConnected, netif.StateClosing, netif.StateClosed, netif.StateUnknown)
		if !errors.Is(err, errTimeout) {
			return st, err
		}
		b.awaits(b.lacks(st, netif.StateConnected))
	}
}

// lacks says what is missing while the backend is in state st and shall get to next.
func (b *bus) lacks(st, next netif.State) string {
	switch {
	case st == netif.StateUnknown:
		return fmt.Sprintf("%s in domain %d is gone: the toolstack has to attach the vif anew", b.backend, b.domid)
	case st == netif.StateConnected:
		return fmt.Sprintf("%s in domain %d stays Connected to rings of before: the toolstack has to attach the vif anew", b.backend, b.domid)
	case next == netif.StateConnected:
		return fmt.Sprintf("%s in domain %d is %v and has not taken up the rings: is its hotplug script done?", b.backend, b.domid, st)
	}
	return fmt.Sprintf("%s in domain %d is %v: no driver there has taken it up", b.backend, b.domid, st)
}

// shut walks both ends to Closed. Each step waits for the backend for at most
// timeout and then goes on without it, since a dead one never answers.
func (b *bus) shut(ctx context.Context, timeout time.Duration) error {
	if err := b.setState(ctx, netif.StateClosing); err != nil {
		return err
	}
	_, err := b.await(ctx, timeout, netif.StateClosing, netif.StateClosed, netif.StateUnknown)
	dead := errors.Is(err, errTimeout)
	if err != nil && !dead {
		return err
	}
	if err := b.setState(ctx, netif.StateClosed); err != nil {
		return err
	}
	if dead {
		return nil
	}
	return b.awaitClosed(ctx, timeout)
}

// awaitClosed waits for the backend to be Closed, for at most timeout: a dead one never is. One
// that removes its directory then looks at our state once more before it does that, and is
// waited for: it would stay half closed if it saw another frontend.
func (b *bus) awaitClosed(ctx context.Context, timeout time.Duration) error {
	want := []netif.State{netif.StateUnknown, netif.StateClosed}
	if b.removes {
		want = want[:1]
	}
	_, err := b.await(ctx, timeout, want...)
	if errors.Is(err, errTimeout) {
		return nil
	}
	return err
}
