package netback

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// queue is one pair of rings of a connected vif, with a worker for each.
type queue struct {
	vif      *Vif
	index    int
	takes    Takes
	shared   bool // one event channel for both rings, owned by the tx worker
	counters *counters
	tx       *txWorker
	rx       *rxWorker
	rings    []Page
	stopping atomic.Bool
	done     sync.WaitGroup
}

// queueNodes is what the frontend wrote about one queue.
type queueNodes struct {
	txRef, rxRef   xen.GrantRef
	txPort, rxPort xen.Port
	shared         bool
}

// readQueueNodes reads them from dir (connect_data_rings): two event channels if
// both are there, else one.
func readQueueNodes(ctx context.Context, s xenstore.Operations, dir string) (n queueNodes, err error) {
	number := func(key string) (uint32, error) {
		v, err := s.Read(ctx, dir+"/"+key)
		if err != nil {
			return 0, fmt.Errorf("read %s/%s: %w", dir, key, err)
		}
		u, err := strconv.ParseUint(strings.TrimSpace(v), 10, 32)
		if err != nil {
			return 0, fmt.Errorf("read %s/%s: %q is no number", dir, key, v)
		}
		return uint32(u), nil
	}
	txRef, terr := number(netif.KeyTxRingRef)
	rxRef, rerr := number(netif.KeyRxRingRef)
	if terr != nil || rerr != nil {
		return n, errors.Join(terr, rerr)
	}
	n.txRef, n.rxRef = xen.GrantRef(txRef), xen.GrantRef(rxRef)
	txPort, terr := number(netif.KeyEventChannelTx)
	rxPort, rerr := number(netif.KeyEventChannelRx)
	if terr != nil || rerr != nil {
		port, err := number(netif.KeyEventChannel)
		if err != nil {
			return n, err
		}
		txPort, rxPort, n.shared = port, port, true
	}
	n.txPort, n.rxPort = xen.Port(txPort), xen.Port(rxPort)
	return n, nil
}

// openQueue maps the rings and binds the channels. Its workers do not run yet.
func (v *Vif) openQueue(index int, nodes queueNodes, port PortQueue) (*queue, error) {
	q := &queue{vif: v, index: index, takes: v.takes, shared: nodes.shared, counters: v.countersOf(index)}
	if err := q.open(nodes, port); err != nil {
		return nil, errors.Join(err, q.close())
	}
	return q, nil
}

func (q *queue) open(nodes queueNodes, port PortQueue) error {
	domain, from := q.vif.backend.domain, q.vif.info.Frontend
	q.tx = &txWorker{q: q, port: port, pages: pageCache{domain: domain, from: from}}
	q.rx = &rxWorker{q: q, port: port, pages: pageCache{domain: domain, from: from, writable: true}}
	q.rx.init()
	q.rx.direct.allowed = q.takes.SG && q.vif.options.RxOffset == 0 && !q.vif.options.RxFirstWhole
	txPage, err := q.mapRing(nodes.txRef)
	if err != nil {
		return fmt.Errorf("map tx ring: %w", err)
	}
	if q.tx.ring, err = ring.AttachBack[netif.TxSlot](txPage); err != nil {
		return fmt.Errorf("attach tx ring: %w", err)
	}
	q.tx.pushed = q.tx.ring.Produced()
	rxPage, err := q.mapRing(nodes.rxRef)
	if err != nil {
		return fmt.Errorf("map rx ring: %w", err)
	}
	if q.rx.ring, err = ring.AttachBack[netif.RxSlot](rxPage); err != nil {
		return fmt.Errorf("attach rx ring: %w", err)
	}
	if q.vif.options.BeginsAgain {
		q.tx.ring.BeginAgain()
		q.rx.ring.BeginAgain()
	}
	if q.tx.wait, err = newWaiter(); err != nil {
		return err
	}
	if q.rx.wait, err = newWaiter(); err != nil {
		return err
	}
	if q.tx.events, q.tx.channel, err = q.bind(nodes.txPort, q.tx.wait); err != nil {
		return fmt.Errorf("bind tx channel: %w", err)
	}
	if q.shared {
		q.rx.channel = q.tx.channel
		q.tx.lost = q.vif.faults.take(LostEOI)
	} else if q.rx.events, q.rx.channel, err = q.bind(nodes.rxPort, q.rx.wait); err != nil {
		return fmt.Errorf("bind rx channel: %w", err)
	}
	return q.rx.wait.add(port.FD(), readyPort)
}

func (q *queue) mapRing(ref xen.GrantRef) ([]byte, error) {
	m, err := q.vif.backend.domain.MapGrant(q.vif.info.Frontend, ref, true)
	if err != nil {
		return nil, err
	}
	q.rings = append(q.rings, m)
	return m.Bytes(), nil
}

func (q *queue) bind(remote xen.Port, w *waiter) (Events, xen.Port, error) {
	f, err := q.vif.backend.domain.OpenEvents()
	if err != nil {
		return nil, 0, err
	}
	port, err := f.BindInterdomain(q.vif.info.Frontend, remote)
	if err == nil {
		err = w.add(f.FD(), readyEvent)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, port, nil
}

// start runs the workers.
func (q *queue) start() {
	q.done.Go(q.tx.loop)
	q.done.Go(q.rx.loop)
}

// wake makes both workers look at everything.
func (q *queue) wake() {
	q.tx.wait.wake()
	q.rx.wait.wake()
}

// stop ends the workers and waits for them. Frames that HoldTx keeps are delivered
// and answered before that.
func (q *queue) stop() {
	q.stopping.Store(true)
	q.wake()
	q.done.Wait()
}

// close gives everything back. The workers do not run.
func (q *queue) close() error {
	errs := []error{q.tx.close(), q.rx.close()}
	for _, m := range q.rings {
		errs = append(errs, m.Unmap())
	}
	return errors.Join(errs...)
}
