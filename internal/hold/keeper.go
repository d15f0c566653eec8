package hold

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// KeeperOptions configure a [Keeper].
type KeeperOptions struct {
	Socket string // path of the holder's socket

	// Command makes a holder when none is at Socket: [StartCommand]. Empty where
	// connecting to the socket starts one, which is systemd's socket activation.
	Command []string

	// Report, if not nil, is told each time the holder is there (nil, after everything
	// was handed over) or is not (why). It is called by one goroutine and must not wait
	// for the Keeper.
	Report func(error)

	Log *zap.Logger
}

// Keeper is a daemon's way to its holder, over the holder's life and death. It has
// descriptors of its own for all that the holder has, so that it can hand everything to
// the next holder.
//
// Any goroutine may call its methods. A call ends within [CallTimeout]. Calls that
// change something are remembered first; when the holder does not answer, the error is
// [ErrUnavailable], and the Keeper makes up for the call as soon as there is a holder.
// That is something to log, and no reason to stop. Only what the holder refused
// ([ErrRefused]) stays undone.
type Keeper struct {
	opts   KeeperOptions
	cancel context.CancelFunc
	ended  chan struct{}

	memory *store // what the holder has, or is to have

	// turn holds one token: who has it talks to the holder.
	turn   chan struct{}
	client *Client // with turn; nil while there is none

	// kick asks for another attempt at what a caller had no time for.
	kick chan struct{}

	mu      sync.Mutex
	behind  map[place]bool  // where the holder differs from memory; see update
	calls   int             // to the holder, about what is in behind no more
	refused map[place]error // what the holder would not take
	synced  bool            // there is a holder, and it and memory have met
	loaded  bool            // synced was true at least once
	changed chan struct{}   // closed and replaced when Sync is to look again
	lastErr error           // why synced is false
}

// place is where a bundle is: live under a key, or parked under an identifier.
type place struct{ key, id string }

// StartKeeper makes a Keeper. It connects in the background; [Keeper.Sync] waits for
// that.
func StartKeeper(o KeeperOptions) *Keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &Keeper{
		opts:    o,
		cancel:  cancel,
		ended:   make(chan struct{}),
		memory:  newStore(),
		turn:    make(chan struct{}, 1),
		kick:    make(chan struct{}, 1),
		behind:  make(map[place]bool),
		refused: make(map[place]error),
		changed: make(chan struct{}),
		lastErr: errors.New("not connected yet"),
	}
	k.turn <- struct{}{}
	go k.follow(ctx)
	return k
}

// Sync waits until the holder has everything that was put before, and the Keeper
// everything that the holder had before. A daemon calls it when it starts, before it
// asks for the last one's bundles, and before it ends, since its exit may otherwise be
// the last close of a parked bundle. It may take longer than other calls: as long as
// ctx allows. It returns at once what the holder refused.
func (k *Keeper) Sync(ctx context.Context) error {
	for {
		k.mu.Lock()
		settled, changed, err := k.settled(), k.changed, k.lastErr
		refused := errors.Join(slices.Collect(maps.Values(k.refused))...)
		k.mu.Unlock()
		if settled {
			return refused
		}
		select {
		case <-changed:
		case <-k.ended:
			return fmt.Errorf("%w: %w", ErrUnavailable, errKeeperClosed)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w (%w)", ErrUnavailable, err, context.Cause(ctx))
		}
	}
}

// settled says that there is nothing left to tell the holder. It needs k.mu.
func (k *Keeper) settled() bool { return k.synced && len(k.behind) == 0 && k.calls == 0 }

// Put hands a bundle to the holder, in place of the one of that key. The caller keeps
// its own descriptors and may close them. B.Parked must be empty.
func (k *Keeper) Put(ctx context.Context, b Bundle) error {
	if b.Parked != "" {
		return fmt.Errorf("put %s: a parked bundle: use Park", b.Key)
	}
	if err := b.check(); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	own, err := duplicate(b)
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if err := k.remember(own); err != nil {
		return fmt.Errorf("put %s: %w", b.Key, errors.Join(err, own.Close()))
	}
	return k.tell(ctx, "put", place{key: b.Key})
}

// Get returns the bundle of a key, with descriptors that are the caller's. It does not
// need a holder once [Keeper.Sync] has returned nil.
func (k *Keeper) Get(ctx context.Context, key string) (*Bundle, error) {
	return k.get(ctx, key, "")
}

// GetParked is Get for a parked bundle, by its identifier.
func (k *Keeper) GetParked(ctx context.Context, id string) (*Bundle, error) {
	return k.get(ctx, "", id)
}

func (k *Keeper) get(ctx context.Context, key, id string) (*Bundle, error) {
	if err := k.load(ctx); err != nil {
		return nil, fmt.Errorf("get %s%s: %w", key, id, err)
	}
	b, h := k.memory.find(key, id)
	if h == nil {
		return nil, fmt.Errorf("get %s%s: %w", key, id, ErrNotFound)
	}
	defer k.memory.release(h)
	own, err := duplicate(b)
	if err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	return own, nil
}

// List says what the holder has or is to have, parked bundles included. As Get, it
// needs no holder later on.
func (k *Keeper) List(ctx context.Context) ([]Entry, error) {
	if err := k.load(ctx); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	return k.memory.list(), nil
}

// load waits until the Keeper has what the holder had.
func (k *Keeper) load(ctx context.Context) error {
	k.mu.Lock()
	loaded := k.loaded
	k.mu.Unlock()
	if loaded {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	return k.Sync(ctx)
}

// Drop closes a bundle, here and in the holder. It is no error when there is none.
func (k *Keeper) Drop(ctx context.Context, key string) error {
	if err := checkText("key", key, MaxKey); err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	old := k.change(key, func() *held { return k.memory.drop(key) })
	k.memory.release(old)
	return k.tell(ctx, "drop", place{key: key})
}

// Park parks the bundle of a key, and returns the identifier under which it is kept for
// ever. The key is free then. The Keeper keeps descriptors of it for ever, too.
func (k *Keeper) Park(ctx context.Context, key string) (id string, err error) {
	if !k.memory.has(place{key: key}) {
		if err := k.load(ctx); err != nil {
			return "", fmt.Errorf("park %s: %w", key, err)
		}
	}
	id = NewParkID()
	k.mu.Lock()
	if err = k.memory.park(key, id); err == nil {
		// The holder moves what it has there, unless that is not what we have.
		k.behind[place{key, id}] = !k.behind[place{key: key}] && k.refused[place{key: key}] == nil
		k.behind[place{key: key}] = true
		delete(k.refused, place{key: key})
	}
	k.mu.Unlock()
	if err != nil {
		return "", fmt.Errorf("park %s: %w", key, err)
	}
	return id, k.tell(ctx, "park", place{key, id})
}

// Close ends the connection; the holder keeps everything. Parked bundles stay open in
// this process unless the holder is known to have them, which [Keeper.Sync] waits for.
func (k *Keeper) Close() error {
	k.cancel()
	<-k.ended
	<-k.turn
	defer func() { k.turn <- struct{}{} }()
	k.mu.Lock()
	safe := k.settled() && len(k.refused) == 0
	k.synced, k.lastErr = false, errKeeperClosed
	k.mu.Unlock()
	if k.client == nil {
		k.memory.forget(false)
		return nil
	}
	select {
	case <-k.client.Done():
		safe = false
	default:
	}
	k.memory.forget(safe)
	err := k.client.Close()
	k.client = nil
	return err
}

var errKeeperClosed = errors.New("the keeper is closed")

// remember puts a bundle into memory, which owns its descriptors from then on.
func (k *Keeper) remember(b *Bundle) error {
	var err error
	old := k.change(b.Key, func() *held {
		var old *held
		old, _, err = k.memory.put(*b, noLimit)
		return old
	})
	k.memory.release(old)
	return err
}

// noLimit is for a process whose limit of descriptors is checked by duplicating them.
const noLimit = 1 << 30

// change does something to a live bundle in memory that the holder has to be told.
func (k *Keeper) change(key string, do func() *held) *held {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.behind[place{key: key}] = true
	delete(k.refused, place{key: key})
	return do()
}

// duplicate returns a bundle with descriptors of its own.
func duplicate(b Bundle) (*Bundle, error) {
	d := b
	d.Files = slices.Clone(b.Files)
	for i, f := range b.Files {
		fd, err := unix.FcntlInt(uintptr(f.FD), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			d.Files = d.Files[:i]
			return nil, errors.Join(fmt.Errorf("duplicate %s of %s: %w", f.Name, b.Key, err), d.Close())
		}
		d.Files[i].FD = fd
	}
	return &d, nil
}

// retryLimit is the longest wait between two attempts to get a holder.
const retryLimit = 5 * time.Second
