package netback

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
	"go.uber.org/zap"
)

// Options are the settings of a backend, for all its vifs.
type Options struct {
	// Features are announced; nil means [LinuxFeatures].
	Features *Features
	// Nodes are written beside the features, over them if need be.
	Nodes map[string]string
	// NewPort makes a vif's port; nil means [NewMemoryPort].
	NewPort func(VifInfo) (Port, error)
	// HotplugDelay is how long the hotplug script takes until it writes
	// hotplug-status; below zero it never does. Where the toolstack has written
	// "connected" itself, as for a vif without a script, nothing waits for it.
	HotplugDelay time.Duration
	// StallTimeout, DrainTimeout and PollTimeout are those of the rx ring: how long
	// the guest may give no slots before the carrier goes (60 s), how long a frame
	// waits for slots (10 s), and the same where the frontend has no
	// feature-rx-notify (30 ms). 0 means Linux's value.
	StallTimeout, DrainTimeout, PollTimeout time.Duration
	// RxOffset is where in its page an rx slot's data begins, in bytes: 0 as in
	// Linux, 2 as in QEMU.
	RxOffset int
	// RxFirstWhole makes the first slot of a frame that spans pages carry the whole frame's
	// size, as Mirage up to 2.1.7 does (write in lib/backend.ml of mirage-net-xen; from 2.1.8
	// on, fragment_data in lib/netif.ml gives each slot its own).
	RxFirstWhole bool
	// NoRxEvents makes a queue that has no slots for a frame wait for any event, without
	// asking for one at the next request, as QEMU's does (net_rx_ok of hw/net/xen_nic.c).
	NoRxEvents bool
	// FollowsOnly makes the backend, while it is Connected, take no notice of a frontend that
	// is Initialising: it closes only after a frontend that closes, as QEMU's does.
	FollowsOnly bool
	// BeginsAgain makes a backend that is bound anew take the rings from index 0, as a QEMU does
	// that was started anew (xen_netdev_connect of hw/net/xen_nic.c).
	BeginsAgain bool
	// AnswerAfter is how long the backend takes to follow the frontend to another state.
	AnswerAfter time.Duration
	// RemoveOnClose makes the backend remove its directory when the frontend closes, and be
	// gone until the toolstack attaches the vif anew, as Mirage does (disconnect_backend of
	// mirage-net-xen, lib/xenstore.ml): it is Closed first, and removes the directory once it
	// sees the frontend close, or be closed, then. It announces what Mirage's does, too.
	RemoveOnClose bool
	// LostEOI is the probability that a connect with one event channel loses its
	// first EOI, so that the tx ring is never looked at; see the fault LostEOI.
	LostEOI float64
	// Log gets what netback would log; nil means nobody does.
	Log *zap.Logger
}

// Backend is the netback driver of one domain.
type Backend struct {
	domain Domain
	opts   options

	mu      sync.Mutex
	vifs    map[VifID]*Vif
	changed chan struct{} // closed and replaced when vifs changes
	ended   chan VifID    // to Serve, which alone adds to vifs
	wg      sync.WaitGroup
}

// New returns a backend in a domain of the embedded Xen, whose connection stays the
// caller's. It does nothing before Serve.
func New(conn *xensim.Connection, opts Options) *Backend { return NewIn(embedded{conn}, opts) }

// NewIn returns a backend in a domain, which stays the caller's.
func NewIn(domain Domain, opts Options) *Backend {
	return &Backend{
		domain:  domain,
		opts:    opts.complete(),
		vifs:    make(map[VifID]*Vif),
		changed: make(chan struct{}),
		ended:   make(chan VifID),
	}
}

// options are Options with nothing left out.
type options struct {
	Options
	Features Features
}

func (o Options) complete() options {
	c := options{Options: o, Features: LinuxFeatures()}
	if o.Features != nil {
		c.Features = *o.Features
	}
	if c.NewPort == nil {
		c.NewPort = func(VifInfo) (Port, error) { return NewMemoryPort(), nil }
	}
	defaultTo := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	defaultTo(&c.StallTimeout, 60*time.Second)
	defaultTo(&c.DrainTimeout, 10*time.Second)
	defaultTo(&c.PollTimeout, 30*time.Millisecond)
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	return c
}

// Serve serves the domain's vifs, those that are there and those that come, until
// ctx ends. Then it lets go of all rings and leaves the nodes as they are, as when
// the driver's module is removed.
func (b *Backend) Serve(ctx context.Context) error {
	root := fmt.Sprintf("%s/backend/vif", xensim.HomePath(b.domain.ID()))
	watch, err := b.domain.Store().Watch(ctx, root)
	if err != nil {
		return fmt.Errorf("watch %s: %w", root, err)
	}
	defer watch.Close()
	defer b.wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.scan(ctx, root)
	for {
		select {
		case <-ctx.Done():
			return nil
		case path, ok := <-watch.Events():
			if !ok {
				return fmt.Errorf("watch %s: %w", root, watch.Err())
			}
			b.nodeChanged(ctx, root, path)
		case id := <-b.ended:
			if b.find(id) == nil {
				b.probe(ctx, id) // it may have come back before it was gone
			}
		}
	}
}

// scan finds the vifs that are there already. Whatever state they are in, the driver
// is new to them.
func (b *Backend) scan(ctx context.Context, root string) {
	store := b.domain.Store()
	domains, _ := store.Directory(ctx, root)
	for _, d := range domains {
		devices, _ := store.Directory(ctx, root+"/"+d)
		for _, n := range devices {
			if id, ok := parseID(d, n); ok {
				b.add(ctx, id)
			}
		}
	}
}

func parseID(domain, device string) (VifID, bool) {
	d, derr := strconv.ParseUint(domain, 10, 15)
	n, nerr := strconv.ParseUint(device, 10, 16)
	return VifID{xen.DomID(d), int(n)}, derr == nil && nerr == nil
}

// nodeChanged creates the vif of a directory that is new, whose state is
// Initialising (xenbus_probe_node), or tells an old one.
func (b *Backend) nodeChanged(ctx context.Context, root, path string) {
	rest, _ := strings.CutPrefix(path, root+"/")
	parts := strings.SplitN(rest, "/", 3)
	if len(parts) < 2 {
		return
	}
	id, ok := parseID(parts[0], parts[1])
	if !ok {
		return
	}
	if v := b.find(id); v != nil {
		v.poke()
		return
	}
	b.probe(ctx, id)
}

// probe creates a vif if its directory is there and new.
func (b *Backend) probe(ctx context.Context, id VifID) {
	dir := xensim.BackendPath(b.domain.ID(), id.Frontend, id.Device)
	state, err := b.domain.Store().Read(ctx, dir+"/"+netif.KeyState)
	if err == nil && strings.TrimSpace(state) == strconv.Itoa(int(netif.StateInitialising)) {
		b.add(ctx, id)
	}
}

func (b *Backend) find(id VifID) *Vif {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.vifs[id]
}

// Vif waits until the vif exists, and has its port.
func (b *Backend) Vif(ctx context.Context, id VifID) (*Vif, error) {
	for {
		b.mu.Lock()
		v, changed := b.vifs[id], b.changed
		b.mu.Unlock()
		if v != nil {
			err := v.wait(ctx, func() bool { return v.port != nil })
			if !errors.Is(err, ErrGone) {
				return v, err
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for vif %d.%d: %w", id.Frontend, id.Device, ctx.Err())
		}
	}
}

// Vifs are those that exist now.
func (b *Backend) Vifs() []*Vif {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*Vif, 0, len(b.vifs))
	for _, v := range b.vifs {
		list = append(list, v)
	}
	return list
}

// add creates a vif and follows it until its end. Serve's goroutine alone calls it, so that a
// directory is one vif.
func (b *Backend) add(ctx context.Context, id VifID) {
	v := &Vif{
		backend: b,
		info:    VifInfo{VifID: id},
		options: &b.opts,
		dir:     xensim.BackendPath(b.domain.ID(), id.Frontend, id.Device),
		log:     b.opts.Log.With(zap.String("vif", fmt.Sprintf("vif%d.%d", id.Frontend, id.Device))),
		calls:   make(chan func(context.Context)),
		pokes:   make(chan struct{}, 1),
		gone:    make(chan struct{}),
		changed: make(chan struct{}),
	}
	if err := v.readInfo(ctx, b.domain.Store()); err != nil {
		v.log.Warn("read the vif's directory", zap.Error(err))
		return
	}
	b.set(id, v)
	b.wg.Go(func() {
		if err := v.follow(ctx); err != nil && ctx.Err() == nil {
			v.log.Error("follow the vif", zap.Error(err))
		}
		b.set(id, nil)
		close(v.gone)
		select {
		case b.ended <- id:
		case <-ctx.Done():
		}
	})
}

func (b *Backend) set(id VifID, v *Vif) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v == nil {
		delete(b.vifs, id)
	} else {
		b.vifs[id] = v
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// readInfo reads what the toolstack wrote.
func (v *Vif) readInfo(ctx context.Context, s xenstore.Operations) error {
	read := func(key, missing string) string {
		value, err := s.Read(ctx, v.dir+"/"+key)
		if err != nil {
			return missing
		}
		return strings.TrimSpace(value)
	}
	if v.front = read(netif.KeyFrontend, ""); v.front == "" {
		return fmt.Errorf("no %s node", netif.KeyFrontend)
	}
	id, err := strconv.ParseUint(read(netif.KeyFrontendID, ""), 10, 15)
	if err != nil {
		return fmt.Errorf("%s: %w", netif.KeyFrontendID, err)
	}
	v.info.Frontend = xen.DomID(id)
	v.info.Name = read("vifname", fmt.Sprintf("vif%d.%d", v.info.Frontend, v.info.Device))
	v.info.MAC, _ = net.ParseMAC(read(netif.KeyMAC, ""))
	if v.info.MTU, err = strconv.Atoi(read(netif.KeyMTU, "1500")); err != nil {
		v.info.MTU = 1500
	}
	return nil
}
