package netback

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
	"go.uber.org/zap"
)

// connect takes the frontend's rings into use (connect). As in Linux nobody hears of
// a failure but the error node: the state goes to Connected all the same.
func (v *Vif) connect(ctx context.Context) {
	if v.port == nil {
		return
	}
	store := v.backend.domain.Store()
	w, err := readWishes(ctx, store, v.front)
	if err != nil {
		v.fail(ctx, err)
		return
	}
	if most := max(v.options.Features.MaxQueues, 1); w.queues > most {
		v.fail(ctx, fmt.Errorf("guest requested %d queues, exceeding the maximum of %d", w.queues, most))
		return
	}
	if w.queues == 0 {
		v.fail(ctx, errors.New("allocating queues"))
		return
	}
	mac, err := store.Read(ctx, v.dir+"/"+netif.KeyMAC)
	if err == nil {
		_, err = net.ParseMAC(mac)
	}
	if err != nil {
		v.fail(ctx, fmt.Errorf("parsing %s/mac: %w", v.dir, err))
		return
	}
	// Without request-rx-copy Linux reads nothing of what follows, and tells nobody.
	if w.rxCopy {
		v.takes = w.Takes
		v.rxNotify = v.rxNotify && w.rxNotify // never comes back
	}
	v.mcast.on.Store(w.mcast)
	if err := v.openQueues(ctx, w.queues); err != nil {
		v.fail(ctx, err)
		return
	}
	v.mu.Lock()
	v.setCarrier(!v.Disabled())
	v.signal()
	v.mu.Unlock()
	v.hotplug = true // until its status says otherwise, which is read next
	v.hotplugChanged(ctx)
}

// openQueues opens n queues and runs their workers.
func (v *Vif) openQueues(ctx context.Context, n int) error {
	ports, err := v.port.Attach(n, v.takes)
	if err != nil {
		return fmt.Errorf("attach port: %w", err)
	}
	if v.options.LostEOI > 0 && chance(v.options.LostEOI) {
		v.faults.Inject(LostEOI, v.faults.Left(LostEOI)+1)
	}
	limit := v.readRate(ctx)
	var queues []*queue
	for i := range n {
		dir := v.front
		if n > 1 {
			dir += "/" + netif.QueueDir(i)
		}
		nodes, err := readQueueNodes(ctx, v.backend.domain.Store(), dir)
		if err == nil {
			var q *queue
			if q, err = v.openQueue(i, nodes, ports[i]); err == nil {
				q.tx.credit = newCredit(limit, time.Now())
				queues = append(queues, q)
				continue
			}
			err = fmt.Errorf("mapping shared-frames %d/%d port tx %d rx %d: %w",
				nodes.txRef, nodes.rxRef, nodes.txPort, nodes.rxPort, err)
		}
		for _, q := range queues {
			err = errors.Join(err, q.close())
		}
		return errors.Join(err, v.port.Detach())
	}
	v.stalls.Store(0)
	v.mu.Lock()
	v.queues = queues
	v.mu.Unlock()
	for _, q := range queues {
		q.start()
	}
	return nil
}

// disconnect lets go of the frontend's rings (backend_disconnect). The list of
// multicast addresses goes with them.
func (v *Vif) disconnect() {
	v.mu.Lock()
	queues := v.queues
	v.queues = nil
	v.setCarrier(false)
	v.signal()
	v.mu.Unlock()
	for _, q := range queues {
		q.stop()
	}
	if queues == nil {
		return
	}
	if err := v.port.Detach(); err != nil {
		v.log.Warn("detach port", zap.Error(err))
	}
	for _, q := range queues {
		if err := q.close(); err != nil {
			v.log.Warn("close queue", zap.Int("queue", q.index), zap.Error(err))
		}
	}
	v.mcast.clear()
}

// readRate reads the limit on what the guest sends.
func (v *Vif) readRate(ctx context.Context) rate {
	value, err := v.backend.domain.Store().Read(ctx, v.dir+"/"+netif.KeyRate)
	v.rate = value
	if errors.Is(err, xenstore.ErrNotFound) {
		return rate{bytes: noLimit}
	}
	var limit rate
	if err == nil {
		limit, err = parseRate(value)
	}
	if err != nil {
		v.log.Warn("failed to parse network rate limit, traffic unlimited", zap.Error(err))
		return rate{bytes: noLimit}
	}
	return limit
}

// LimitTx gives the queues of the connection that stands a limit in the form of the rate
// node, of which no node says anything: what a slow uplink behind a backend does.
func (v *Vif) LimitTx(value string) error {
	limit, err := parseRate(value)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, q := range v.queues {
		q.tx.newRate.Store(&limit)
		q.tx.wait.wake()
	}
	return nil
}

// rateChanged gives the queues a new limit, if there is one.
func (v *Vif) rateChanged(ctx context.Context) {
	before := v.rate
	limit := v.readRate(ctx)
	if v.rate == before {
		return
	}
	for _, q := range v.queues {
		q.tx.newRate.Store(&limit)
		q.tx.wait.wake()
	}
}
