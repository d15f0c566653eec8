package hold

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
)

// follow keeps a holder there, and keeps it up to date.
func (k *Keeper) follow(ctx context.Context) {
	defer close(k.ended)
	const first = 50 * time.Millisecond
	for wait := first; ; wait = min(2*wait, retryLimit) {
		done, err := k.connect(ctx)
		if err == nil {
			wait = first
			err = k.attend(ctx, done)
		}
		if ctx.Err() != nil {
			return
		}
		k.lost(err)
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return
		}
	}
}

// attend does what callers had no time for, until the holder is gone.
func (k *Keeper) attend(ctx context.Context, done <-chan struct{}) error {
	for {
		select {
		case <-done:
			return fmt.Errorf("%w: the connection ended", ErrUnavailable)
		case <-ctx.Done():
			return ctx.Err()
		case <-k.kick:
			if err := k.tellAll(ctx); err != nil {
				k.opts.Log.Debug("holder not brought up to date", zap.Error(err))
			}
		}
	}
}

// connect gets a holder, and brings it and memory up to date with each other. The
// channel is closed when that holder is gone.
func (k *Keeper) connect(ctx context.Context) (<-chan struct{}, error) {
	c, err := dialOrStart(ctx, k.opts.Socket, k.opts.Command)
	if err != nil {
		return nil, err
	}
	select {
	case <-k.turn:
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), c.Close())
	}
	defer func() { k.turn <- struct{}{} }()
	if err := k.meet(ctx, c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	k.client = c
	k.mu.Lock()
	k.synced, k.loaded, k.lastErr = true, true, nil
	k.wake()
	k.mu.Unlock()
	k.opts.Log.Info("holder has everything", zap.String("socket", k.opts.Socket), event(EventHolderReady))
	if k.opts.Report != nil {
		k.opts.Report(nil)
	}
	return c.Done(), nil
}

// lost notes that there is no holder. It is logged when that is new, or has a new
// reason.
func (k *Keeper) lost(err error) {
	k.mu.Lock()
	news := k.lastErr == nil || k.lastErr.Error() != err.Error()
	k.synced, k.lastErr = false, err
	k.wake()
	k.mu.Unlock()
	if !news {
		return
	}
	k.opts.Log.Warn("no holder: a crash of this process would now lose the connections", zap.String("socket", k.opts.Socket), problem(err), event(EventNoHolder))
	if k.opts.Report != nil {
		k.opts.Report(err)
	}
}

// wake lets Sync look again. It needs k.mu.
func (k *Keeper) wake() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// meet fetches what only the holder has, which a daemon before this one put there, and
// hands it what only memory has. Parked bundles come first: until the holder has them,
// this process is the only one.
func (k *Keeper) meet(ctx context.Context, c *Client) error {
	list, err := c.List(ctx)
	if err != nil {
		return err
	}
	theirs := make(map[place]bool)
	for _, e := range list {
		theirs[e.place()] = true
		if err := k.fetch(ctx, c, e); err != nil {
			return err
		}
	}
	k.mu.Lock()
	for _, e := range k.memory.list() {
		p := e.place()
		if _, known := k.behind[p]; !known && !theirs[p] {
			k.behind[p] = p.id == ""
		}
	}
	k.mu.Unlock()
	return k.update(ctx, c)
}

// place is where the bundle of an entry is. A parked bundle's key is for people, but
// belongs to it as well.
func (e Entry) place() place { return place{e.Key, e.Parked} }

// fetch takes a bundle of the holder's into memory, unless memory has it, or knows
// better what becomes of that key.
func (k *Keeper) fetch(ctx context.Context, c *Client, e Entry) error {
	if k.knows(e.place()) {
		return nil
	}
	var b *Bundle
	var err error
	if e.Parked != "" {
		b, err = c.GetParked(ctx, e.Parked)
	} else {
		b, err = c.Get(ctx, e.Key)
	}
	if errors.Is(err, ErrNotFound) {
		return nil // gone since it was listed
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if e.Parked == "" && k.behindOrHas(e.place()) {
		return b.Close() // dropped, parked or replaced meanwhile
	}
	_, taken, err := k.memory.put(*b, noLimit)
	if !taken {
		err = errors.Join(err, b.Close())
	}
	return err
}

// knows says whether memory has a bundle, or knows better what becomes of that key.
func (k *Keeper) knows(p place) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.behindOrHas(p)
}

// behindOrHas needs k.mu.
func (k *Keeper) behindOrHas(p place) bool {
	_, behind := k.behind[p]
	return behind || k.memory.has(p)
}

// update does everything that the holder is behind with, in the turn of the caller. It
// returns when there is nothing left, or the holder does not answer.
//
// Parked bundles come first. Where behind has true for one, the holder has the same as
// the live bundle of that key and is to move it, so that at no time a daemon that starts
// finds it as live; false means that the holder has to be given it.
func (k *Keeper) update(ctx context.Context, c *Client) error {
	for {
		k.mu.Lock()
		p, ok := k.next()
		if !ok {
			k.wake()
			k.mu.Unlock()
			return nil
		}
		move := k.behind[p]
		delete(k.behind, p)
		k.calls++
		b, h := k.memory.find(p.key, p.id)
		k.mu.Unlock()

		err := tell(ctx, c, p, move, b, h != nil)
		k.memory.release(h)

		k.mu.Lock()
		k.calls--
		if err != nil {
			err = k.failed(p, move, err)
		}
		k.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// next needs k.mu.
func (k *Keeper) next() (p place, ok bool) {
	for p = range k.behind {
		ok = true
		if p.id != "" {
			break
		}
	}
	return p, ok
}

// failed notes a call that came to nothing. It returns the error if there is no use in
// going on. It needs k.mu.
func (k *Keeper) failed(p place, move bool, err error) error {
	if p.id == "" {
		for parked := range k.behind {
			if parked.key == p.key && parked.id != "" {
				k.behind[parked] = false // the holder has something else under that key
			}
		}
	}
	if errors.Is(err, ErrRefused) {
		k.refused[p] = err
		return nil
	}
	if _, again := k.behind[p]; !again {
		k.behind[p] = move
	}
	return err
}

// tell makes the holder have at p what memory has: bundle b, or nothing.
func tell(ctx context.Context, c *Client, p place, move bool, b Bundle, has bool) error {
	switch {
	case !has:
		return c.Drop(ctx, p.key)
	case p.id != "" && move:
		err := c.parkAs(ctx, p.key, p.id)
		if !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return c.Put(ctx, b)
}

// tell brings the holder up to date after a change at p, in the caller's time.
func (k *Keeper) tell(ctx context.Context, verb string, p place) error {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	err := k.tellAll(ctx)
	if err == nil {
		k.mu.Lock()
		err = k.refused[p]
		k.mu.Unlock()
	} else {
		select {
		case k.kick <- struct{}{}:
		default:
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, p.key, err)
	}
	return nil
}

func (k *Keeper) tellAll(ctx context.Context) error {
	select {
	case <-k.turn:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	defer func() { k.turn <- struct{}{} }()
	if k.client == nil {
		return ErrUnavailable
	}
	return k.update(ctx, k.client)
}
