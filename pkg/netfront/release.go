package netfront

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// ErrSilent says that a backend does not follow the frontend through its states: its
// domain is gone, or hangs.
var ErrSilent = errors.New("the backend does not answer")

// clearTimeout bounds the transaction that removes a frontend's keys: some twenty calls
// of xenstore, each of which takes a tenth of a second on an emulated machine. A stop
// has to be over in ten seconds.
const clearTimeout = 8 * time.Second

// Release walks a vif from whatever its last owner left (Connected by a process that
// was killed, Closed by the kernel's driver) to how the toolstack made it:
// Initialising, without a key of a frontend's, its backend in InitWait. Any frontend
// can take it from there. Nobody may serve the vif meanwhile.
//
// It waits for the backend until ctx ends. For a backend that does not get to InitWait
// the error is [ErrSilent], and the vif is Initialising without keys all the same. It must not be
// given to Linux's xen-netfront then: its probe waits for the backend to leave Closed
// and cannot be interrupted (xennet_probe).
func Release(ctx context.Context, s xen.Store, devid int) (err error) {
	a, err := findVif(ctx, s, devid)
	if err != nil {
		return err
	}
	last := netif.StateUnknown
	b, err := openBus(ctx, s, a, func(st netif.State) { last = st })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	err = b.reset(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %s in domain %d stays %v and does not get to %v", ErrSilent, a.backend, a.domid, last, netif.StateInitWait)
	}
	return errors.Join(err, b.clear(ctx))
}

// clear leaves the vif Initialising, without a key of a frontend's. It is done even
// when ctx has ended.
func (b *bus) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
	defer cancel()
	err := b.store.Update(ctx, func(tx xenstore.Operations) error {
		if err := unpublish(ctx, tx, b.dir); err != nil {
			return err
		}
		return tx.Write(ctx, b.dir+"/"+netif.KeyState, fmt.Sprint(int(netif.StateInitialising)))
	})
	if err != nil {
		return fmt.Errorf("clear the vif: %w", err)
	}
	return nil
}

// AwaitConnected waits until both ends of a vif that another frontend serves are
// Connected. When ctx ends first, the error says where they are, and what the
// frontend noted as its error in xenstore.
func AwaitConnected(ctx context.Context, s xen.Store, devid int) (err error) {
	a, err := findVif(ctx, s, devid)
	if err != nil {
		return err
	}
	b, err := openBus(ctx, s, a, func(netif.State) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	// Linux's frontend is Connected first, and its backend follows.
	if _, err = b.await(ctx, 0, netif.StateConnected); ctx.Err() == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	own, err := readState(ctx, s, a.dir)
	if err != nil {
		return err
	}
	peer, err := readState(ctx, s, a.backend)
	if err != nil {
		return err
	}
	err = fmt.Errorf("%w: the frontend is %v, the backend %s in domain %d is %v", errTimeout, own, a.backend, a.domid, peer)
	if noted, rerr := s.Read(ctx, "error/"+a.dir+"/error"); rerr == nil {
		err = fmt.Errorf("%w; the frontend says %q", err, noted)
	}
	return err
}
