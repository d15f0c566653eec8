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

// ErrGone says that a vif has no backend any more: its part of xenstore is gone, and only the
// toolstack can make another, by attaching the vif anew.
var ErrGone = errors.New("the backend is gone")

// clearTimeout bounds the transaction that removes a frontend's keys: some twenty calls
// of xenstore, each of which takes a tenth of a second on an emulated machine. A stop
// has to be over in ten seconds.
const clearTimeout = 8 * time.Second

// Window calls do while the guest's kernel gives no vif to its own driver, see [Rewind].
// A nil one only calls it.
type Window func(do func() error) error

// Rewind walks a vif that no frontend has (closed by the kernel's driver, say) to
// Initialising, and returns when the guest's kernel has seen that. Since Linux 7.0 the
// kernel then takes the vif for a new one, and lets its own driver probe it, if the state
// that it remembers is another (xenbus_dev_changed). In a window in which it probes nothing
// it takes note of the state, and no driver; and it has nothing to take note of any more
// until a driver has the vif again. Older kernels keep what they remember, and do nothing.
//
// The kernel has seen it when a watch that is set behind the write reports: all watches of
// a guest, the kernel's own among them, come in their order through one thread of the
// kernel's (xenwatch_thread).
func Rewind(ctx context.Context, s xen.Store, devid int, window Window) (err error) {
	a, err := findVif(ctx, s, devid)
	if err != nil {
		return err
	}
	b, err := openBus(ctx, s, a, func(netif.State) {})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	return b.rewind(ctx, window)
}

func (b *bus) rewind(ctx context.Context, window Window) error {
	if err := b.shutDirty(ctx); err != nil {
		return err
	}
	reset := func() error {
		if err := b.setState(ctx, netif.StateInitialising); err != nil {
			return err
		}
		return b.awaitKernel(ctx)
	}
	if window == nil {
		return reset()
	}
	return window(reset)
}

// awaitKernel waits until the guest's kernel has seen all that was written before.
func (b *bus) awaitKernel(ctx context.Context) (err error) {
	w, err := b.store.Watch(ctx, b.dir+"/"+netif.KeyState)
	if err != nil {
		return fmt.Errorf("watch vif: %w", err)
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	select {
	case <-ctx.Done():
		return fmt.Errorf("the guest's kernel does not look at xenstore: a driver of it waits for its backend, see dmesg: %w", ctx.Err())
	case _, ok := <-w.Events():
		if !ok {
			return fmt.Errorf("watch of the vif: %w", w.Err())
		}
		return nil
	}
}

// Release walks a vif from whatever its last owner left (Connected by a process that
// was killed, Closed by the kernel's driver) to how the toolstack made it:
// Initialising, without a key of a frontend's, its backend in InitWait. Any frontend
// can take it from there. Nobody may serve the vif meanwhile. The window is for
// the guest's kernel, as with [Rewind].
//
// A backend that is gone, or removes itself when the vif is closed, as Mirage's does, is not
// waited for: [ErrGone], and the vif is Initialising without keys all the same.
//
// It waits for another backend until ctx ends. For a backend that does not get to InitWait
// the error is [ErrSilent], and the vif is Initialising without keys all the same. It must not be
// given to Linux's xen-netfront then: its probe waits for the backend to leave Closed
// and cannot be interrupted (xennet_probe).
func Release(ctx context.Context, s xen.Store, devid int, window Window) (err error) {
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
	b.once = true
	if b.removes, err = removesOnClose(ctx, s, a.backend); err == nil {
		err = b.rewind(ctx, window)
	}
	if err == nil {
		err = b.offer(ctx)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %s in domain %d stays %v and does not get to %v", ErrSilent, a.backend, a.domid, last, netif.StateInitWait)
	}
	if cerr := b.clear(ctx); !errors.Is(cerr, errMoved) {
		err = errors.Join(err, cerr)
	}
	return err
}

// clear leaves the vif Initialising, without a key of a frontend's. It is done even
// when ctx has ended. A vif that the toolstack takes away meanwhile, or has given to another
// backend, is none to clear: [errMoved].
func (b *bus) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
	defer cancel()
	err := b.store.Update(ctx, func(tx xenstore.Operations) error {
		if err := moved(ctx, tx, b.address); err != nil {
			return err
		}
		if err := unpublish(ctx, tx, b.dir); err != nil {
			return err
		}
		return tx.Write(ctx, b.dir+"/"+netif.KeyState, fmt.Sprint(int(netif.StateInitialising)))
	})
	if err != nil && b.moved(ctx) == errMoved {
		return errMoved // between two calls of the transaction
	}
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
