package liar

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// Liar is the backend of one vif.
type Liar struct {
	Domain netback.Domain
	ID     netback.VifID
	// Guest is the IPv4 address of the frontend's TAP, and Self another one in its network.
	// The guest answers what the liar sends there, so that both rings have work.
	Guest, Self net.IP
	// Pace is how many frames in a second it sends there; 0: 800.
	Pace int
	// Seen, which may be nil, is called after each lie, before the next connection is waited
	// for.
	Seen func(Told)

	store xen.Store
	back  *netback.Backend
	vif   *netback.Vif
	dir   string        // of the backend
	front string        // of the frontend
	ended chan struct{} // closed when the frontend has left Connected after the last lie
	kept  []netback.Page
}

// Told is a lie, and what the frontend did.
type Told struct {
	Lie       string  `json:"lie"`
	Violation bool    `json:"violation"` // the frontend had to end the connection
	Ended     bool    `json:"ended"`     // it did
	Seconds   float64 `json:"seconds"`   // until the vif was connected and carried frames again
}

const (
	// occasion is how long a lie may take to be told, ends how long it may take to be seen,
	// and again how long until the vif is connected again, the longest back-off included: ten
	// times and more what is expected, on an emulated CPU.
	occasion = 3 * time.Minute
	ends     = time.Minute
	again    = 5 * time.Minute
)

// Run serves the vif, once it is there, and tells the whole script. It stops serving when it
// returns, and lets go of everything.
func (l *Liar) Run(ctx context.Context) (told []Told, err error) {
	l.store = l.Domain.Store()
	l.back = netback.NewIn(l.Domain, netback.Options{})
	serving, stop := context.WithCancel(ctx)
	var served sync.WaitGroup
	failed := make(chan error, 1)
	served.Go(func() { failed <- l.back.Serve(serving) })
	defer func() {
		stop()
		served.Wait()
		for _, p := range l.kept {
			err = errors.Join(err, p.Unmap())
		}
		err = errors.Join(err, <-failed)
	}()
	if l.vif, err = l.back.Vif(ctx, l.ID); err != nil {
		return nil, err
	}
	l.dir = xensim.BackendPath(l.Domain.ID(), l.ID.Frontend, l.ID.Device)
	l.front = xensim.FrontendPath(l.ID.Frontend, l.ID.Device)
	served.Go(func() { l.feed(serving) })
	if err := l.await(ctx); err != nil {
		return nil, fmt.Errorf("at first: %w", err)
	}
	all := script()
	for i, lie := range all {
		t, err := l.tell(ctx, lie, i+1 == len(all))
		if err != nil {
			return told, fmt.Errorf("%s: %w", lie.name, err)
		}
		told = append(told, t)
	}
	return told, nil
}

// tell tells a lie and waits until the vif is connected again, unless it is the last.
func (l *Liar) tell(ctx context.Context, lie lie, last bool) (Told, error) {
	l.ended = make(chan struct{})
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { l.watch(watching) })
	defer watcher.Wait()
	defer stop()
	begun := time.Now()
	telling, cancel := context.WithTimeout(ctx, occasion)
	err := lie.tell(telling, l)
	cancel()
	if err != nil {
		return Told{}, err
	}
	t := Told{Lie: lie.name, Violation: lie.violation}
	wait := lookEvery
	if lie.violation {
		wait = ends
	}
	select {
	case <-l.ended:
		t.Ended = true
	case <-time.After(wait):
	case <-ctx.Done():
		return t, ctx.Err()
	}
	if l.Seen != nil {
		l.Seen(t)
	}
	if !last {
		err = l.await(ctx)
	}
	t.Seconds = time.Since(begun).Seconds()
	return t, err
}

// watch closes ended when the frontend is not Connected.
func (l *Liar) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if s, err := l.store.Read(ctx, l.front+"/"+netif.KeyState); err == nil && s != strconv.Itoa(int(netif.StateConnected)) {
			close(l.ended)
			return
		}
		l.sleep(ctx, lookEvery)
	}
}

// await waits until the vif is connected, in xenstore too, and the guest has answered.
func (l *Liar) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, again)
	defer cancel()
	connected := strconv.Itoa(int(netif.StateConnected))
	for {
		front, ferr := l.store.Read(ctx, l.front+"/"+netif.KeyState)
		back, berr := l.store.Read(ctx, l.dir+"/"+netif.KeyState)
		if ferr == nil && berr == nil && front == connected && back == connected && l.vif.Queues() > 0 {
			break
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("it is not connected: the frontend is %s, the backend %s: %w", front, back, err)
		}
		l.sleep(ctx, lookEvery)
	}
	port := l.vif.MemoryPort() // it is there while there are queues
	port.Discard()
	if _, err := port.Receive(ctx); err != nil {
		return fmt.Errorf("no frame from the guest: %w", err)
	}
	return nil
}

// sleep waits for so long, or until ctx ends.
func (l *Liar) sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// keepRings maps what the frontend's directory offers as rings, once more.
func (l *Liar) keepRings(ctx context.Context) error {
	dirs := []string{l.front}
	for i := range l.vif.Queues() {
		dirs = append(dirs, l.front+"/"+netif.QueueDir(i))
	}
	for _, dir := range dirs {
		for _, key := range []string{netif.KeyTxRingRef, netif.KeyRxRingRef} {
			text, err := l.store.Read(ctx, dir+"/"+key)
			if err != nil {
				continue // with several queues they are below, else here
			}
			ref, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				return err
			}
			p, err := l.Domain.MapGrant(l.ID.Frontend, xen.GrantRef(ref), true)
			if err != nil {
				return err
			}
			l.kept = append(l.kept, p)
		}
	}
	if len(l.kept) == 0 {
		return errors.New("the frontend's directory has no rings")
	}
	return nil
}
