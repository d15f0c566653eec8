package liar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// lie is one thing that the backend does, while the vif is connected.
type lie struct {
	name string
	// violation says that the ring has no meaning afterwards: the frontend must end the
	// connection and hold it against the backend. After the others it may end it.
	violation bool
	tell      func(ctx context.Context, l *Liar) error
}

// injected is a lie about the next n responses or frames.
func injected(name string, kind netback.Fault, n int) lie {
	return lie{name, false, func(ctx context.Context, l *Liar) error { return l.inject(ctx, kind, n) }}
}

// violation is a lie that is told until the frontend has ended the connection: what the guest
// has just sent can make one of them true.
func violation(name string, kind netback.Fault) lie {
	return lie{name, true, func(ctx context.Context, l *Liar) error { return l.inject(ctx, kind, netback.Always) }}
}

// overflow is a violation after which netback has the ring's indices wrong itself, so that it
// disables the vif. It is bound anew.
func overflow(name string, kind netback.Fault) lie {
	return lie{name, true, func(ctx context.Context, l *Liar) error {
		err := l.inject(ctx, kind, netback.Always)
		return errors.Join(err, l.vif.Rebind(ctx))
	}}
}

func (l *Liar) inject(ctx context.Context, kind netback.Fault, n int) error {
	faults := l.vif.Faults()
	faults.Inject(kind, n)
	defer faults.Clear()
	for faults.Left(kind) > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the frontend goes on, and %d of the lies are left: %w", faults.Left(kind), ctx.Err())
		case <-l.ended:
			return nil
		case <-time.After(lookEvery):
		}
	}
	return nil
}

// during is a lie for a while.
func during(name string, kind netback.Fault, d time.Duration) lie {
	return lie{name, false, func(ctx context.Context, l *Liar) error {
		l.vif.Faults().Inject(kind, netback.Always)
		l.sleep(ctx, d)
		l.vif.Faults().Clear()
		// Without them both ends would wait for the frontend's watchdog, for 15 s.
		l.vif.Kick()
		l.vif.Storm(1)
		return nil
	}}
}

// state shows states that the backend is not in, one after another.
func state(name string, gap time.Duration, states ...netif.State) lie {
	return lie{name, false, func(ctx context.Context, l *Liar) error {
		for _, s := range states {
			if err := l.vif.ShowState(ctx, s); err != nil {
				return err
			}
			l.sleep(ctx, gap)
		}
		return nil
	}}
}

// keys has other values in the backend's directory, or none for the empty ones, while the
// frontend connects anew, and then those of before.
func keys(name string, values map[string]string) lie {
	return lie{name, false, func(ctx context.Context, l *Liar) (err error) {
		before := map[string]string{}
		set := func(values map[string]string) error {
			return l.store.Update(ctx, func(tx xenstore.Operations) error {
				for k, v := range values {
					if v == "" {
						if err := tx.Remove(ctx, l.dir+"/"+k); err != nil && !errors.Is(err, xenstore.ErrNotFound) {
							return err
						}
					} else if err := tx.Write(ctx, l.dir+"/"+k, v); err != nil {
						return err
					}
				}
				return nil
			})
		}
		for k := range values {
			if before[k], err = l.store.Read(ctx, l.dir+"/"+k); err != nil && !errors.Is(err, xenstore.ErrNotFound) {
				return err
			}
		}
		if err := set(values); err != nil {
			return err
		}
		err = l.vif.ShowState(ctx, netif.StateClosing)
		l.sleep(ctx, keysFor)
		return errors.Join(err, set(before))
	}}
}

// storm sends events about nothing for a while.
func storm(d time.Duration) lie {
	return lie{"events about nothing, as many as there can be", false, func(ctx context.Context, l *Liar) error {
		for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; {
			l.vif.Storm(64)
		}
		return nil
	}}
}

// keepRings keeps the frontend's ring pages mapped beyond the connection, until the end of
// the script.
func keepRings() lie {
	return lie{"ring pages that stay mapped after the connection's end", false, func(ctx context.Context, l *Liar) error {
		if err := l.keepRings(ctx); err != nil {
			return err
		}
		return l.vif.ShowState(ctx, netif.StateClosing)
	}}
}

const (
	lookEvery = 10 * time.Millisecond
	quietFor  = time.Second
	keysFor   = 1500 * time.Millisecond
)

// script are the lies, in their order. Those that are held against the backend come last: after
// each the frontend waits for longer, whatever ended the connection.
func script() []lie {
	const (
		initialising = netif.StateInitialising
		initWait     = netif.StateInitWait
		connected    = netif.StateConnected
		closing      = netif.StateClosing
		closed       = netif.StateClosed
	)
	var flapping []netif.State
	for range 8 {
		flapping = append(flapping, initWait, connected)
	}
	return []lie{
		injected("tx: an error for frames that were sent", netback.TxStatusError, 20),
		injected("tx: a status that does not exist", netback.TxStatusUnknown, 20),
		injected("rx: data that leaves its page, by the offset", netback.RxOffsetTooLarge, 20),
		injected("rx: data that leaves its page, by the size", netback.RxStatusTooLarge, 20),
		injected("rx: errors of grant copies", netback.RxStatusGrant, 20),
		injected("rx: frames without data", netback.RxStatusZero, 20),
		injected("rx: less than an Ethernet header", netback.RxShort, 20),
		injected("rx: pages that are written again after their response", netback.RxScribble, 50),
		injected("rx: extras of a type that does not exist", netback.RxExtraType, 20),
		injected("rx: GSO of size 0", netback.RxGSOSizeZero, 5),
		injected("rx: GSO of a type that does not exist", netback.RxGSOTypeUnknown, 5),
		injected("rx: GSO for frames that are none", netback.RxGSOUnasked, 20),
		injected("rx: GSO without a checksum to be computed", netback.RxGSONoCsum, 5),
		injected("rx: checksums to be computed of frames that have none", netback.RxCsumBlankOnAll, 20),
		injected("rx: responses with another id than their request", netback.RxIDWrong, 20),
		storm(2 * time.Second),
		during("tx: no event for responses", netback.TxMute, quietFor),
		during("rx: no event for frames", netback.RxMute, quietFor),
		during("tx: nobody looks at the ring", netback.TxIgnore, quietFor),
		state("states that do not exist", 50*time.Millisecond, 9, 0, connected, 255),
		state("states that flap", 5*time.Millisecond, flapping...),
		state("states that jump", 50*time.Millisecond, initialising, closed, closing, initWait, closed, connected),
		keys("features that are no numbers", map[string]string{
			netif.KeySG: "-1", netif.KeyGSOTCPv4: "yes", netif.KeySplitChannels: "4294967297", netif.KeyMaxQueues: "99999999999999999999", netif.KeyRxCopy: "0x1",
		}),
		keys("no features at all", map[string]string{
			netif.KeySG: "", netif.KeyGSOTCPv4: "", netif.KeyGSOTCPv6: "", netif.KeySplitChannels: "", netif.KeyMaxQueues: "", netif.KeyRxCopy: "",
		}),
		keys("values of 1 KiB", map[string]string{
			netif.KeyRate: strings.Repeat("9", 1024), netif.KeyMAC: strings.Repeat(":", 1024), netif.KeyMaxQueues: strings.Repeat("1", 1024),
		}),
		keepRings(),
		violation("tx: a response for a request that was answered", netback.TxIDTwice),
		violation("tx: a response for a request that was not made", netback.TxIDNotInFlight),
		violation("tx: a response with an id beyond the ring", netback.TxIDOutOfRange),
		violation("rx: extras to the end of the ring", netback.RxExtraEndless),
		violation("rx: one frame to the end of the ring", netback.RxMoreDataEndless),
		overflow("rx: more responses than the ring has slots", netback.RxOverflow),
		overflow("tx: more responses than the ring has slots", netback.TxOverflow),
	}
}
