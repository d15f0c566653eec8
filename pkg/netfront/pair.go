package netfront

import (
	"errors"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// pair is one queue pair: a TAP queue, a tx and an rx ring, and the one or two
// workers that own them. The Device's goroutine makes and ends it.
type pair struct {
	number  int
	rings   xen.Pages // the tx ring's page, then the rx ring's
	tx      *TxQueue
	rx      *RxQueue
	reader  *tap.Reader
	writer  *tap.Writer
	workers []*worker // tx's first; one for both if they share it
	txPort  xen.Port
	rxPort  xen.Port // txPort if the channel is shared
}

// pairConfig is what all pairs of a connection have in common.
type pairConfig struct {
	guest     *xen.Guest
	backend   xen.DomID
	features  Features
	maps      int  // in each of the two pools
	oneWorker bool // one goroutine for both directions, though channels are split
}

// newPair grants what queue number needs, binds its event channels and makes its
// workers, which do not run yet. After an error nothing is left.
func newPair(c pairConfig, number int, q *tap.Queue) (p *pair, err error) {
	p = &pair{number: number}
	defer func() {
		if err != nil {
			err = fmt.Errorf("queue %d: %w", number, errors.Join(err, p.close()))
			p = nil
		}
	}()
	if p.rings, err = c.guest.Grants.Alloc(c.backend, 2, true); err != nil {
		return p, fmt.Errorf("grant ring pages: %w", err)
	}
	if p.reader, err = q.NewReader(txBatch); err != nil {
		return p, fmt.Errorf("make TAP reader: %w", err)
	}
	if p.writer, err = q.NewWriter(rxBatch); err != nil {
		return p, fmt.Errorf("make TAP writer: %w", err)
	}
	txWorker, err := newWorker(c.guest.Events)
	if err != nil {
		return p, err
	}
	p.workers = append(p.workers, txWorker)
	rxWorker := txWorker
	if c.features.SplitChannels && !c.oneWorker {
		if rxWorker, err = newWorker(c.guest.Events); err != nil {
			return p, err
		}
		p.workers = append(p.workers, rxWorker)
	}
	txPort, txNotify, err := txWorker.bind(c.backend)
	if err != nil {
		return p, err
	}
	p.txPort, p.rxPort = txPort, txPort
	rxNotify := txNotify
	if c.features.SplitChannels {
		if p.rxPort, rxNotify, err = rxWorker.bind(c.backend); err != nil {
			return p, err
		}
	}
	if err := p.makeQueues(c, txNotify, rxNotify); err != nil {
		return p, err
	}
	txWorker.tx, rxWorker.rx = p.tx, p.rx
	if err := txWorker.watchTAP(q.FD()); err != nil {
		return p, fmt.Errorf("wait for the TAP: %w", err)
	}
	return p, nil
}

// makeQueues makes the two state machines over the ring pages.
func (p *pair) makeQueues(c pairConfig, txNotify, rxNotify func() error) error {
	mem := p.rings.Bytes()
	tag, slab, err := newDMA(c.guest.Grants, c.backend, true, c.maps)
	if err != nil {
		return fmt.Errorf("tx: %w", err)
	}
	if p.tx, err = newTxQueue(mem[:xen.PageSize], tag, slab, p.reader, c.features, txNotify); err != nil {
		return errors.Join(err, closeDMA(nil, slab, tag))
	}
	if tag, slab, err = newDMA(c.guest.Grants, c.backend, false, c.maps); err != nil {
		return fmt.Errorf("rx: %w", err)
	}
	if p.rx, err = newRxQueue(mem[xen.PageSize:], tag, slab, p.writer, rxNotify); err != nil {
		return errors.Join(err, closeDMA(nil, slab, tag))
	}
	return nil
}

// start lets the workers run. Failed gets the error of each that fails.
func (p *pair) start(failed func(error)) {
	for _, w := range p.workers {
		w.running = true
		w.start(func(err error) { failed(fmt.Errorf("queue %d: %w", p.number, err)) })
	}
}

// stop ends the workers and waits for them; after it the queues are nobody's.
func (p *pair) stop() {
	for _, w := range p.workers {
		w.tell(controlStop)
	}
	for _, w := range p.workers {
		if w.running {
			<-w.done
			w.running = false
		}
	}
}

// close frees everything. The workers must be stopped, and the backend should have
// let go: what it still has mapped stays with the kernel until it does.
func (p *pair) close() error {
	var errs []error
	if p.tx != nil {
		errs = append(errs, p.tx.close())
	}
	if p.rx != nil {
		errs = append(errs, p.rx.close())
	}
	for _, w := range p.workers {
		errs = append(errs, w.close())
	}
	if p.reader != nil {
		errs = append(errs, p.reader.Close())
	}
	if p.writer != nil {
		errs = append(errs, p.writer.Close())
	}
	if p.rings != nil {
		errs = append(errs, p.rings.Free())
	}
	return errors.Join(errs...)
}
