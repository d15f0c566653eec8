package netfront

import (
	"errors"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// pair is one queue pair: a TAP queue, a tx and an rx ring, and the one or two
// workers that own them. The Device's goroutine makes and ends it.
type pair struct {
	number  int
	rings   xen.Pages // the tx ring's page, then the rx ring's; see pairGrants
	tx      *txQueue
	rx      *rxQueue
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
	grants    busdma.Allocator
	features  Features
	oneWorker bool // one goroutine for both directions, though channels are split
	clock     *seconds
}

// workers is how many workers, and so event files, a pair has.
func (c pairConfig) workers() int {
	if c.features.SplitChannels && !c.oneWorker {
		return 2
	}
	return 1
}

// pairMemory is where a pair keeps what the next process needs of it.
type pairMemory struct {
	record *pairRecord
	tx     txMemory
	rx     *rxState
}

// newPair makes the queues of queue number on pages, binds its event channels and makes its
// workers, which do not run yet. After an error nothing is left but the pages, which stay
// the caller's.
func newPair(c pairConfig, number int, q *tap.Queue, mem pairMemory, pages pairGrants) (*pair, error) {
	p := &pair{number: number, rings: pages.rings}
	err := p.make(c, q, mem, pages)
	if err != nil {
		return nil, fmt.Errorf("queue %d: %w", number, errors.Join(err, p.close()))
	}
	return p, nil
}

func (p *pair) make(c pairConfig, q *tap.Queue, mem pairMemory, pages pairGrants) (err error) {
	mem.record.Rings.set(pages.rings)
	mem.record.Tx.set(pages.tx)
	mem.record.Rx.set(pages.rx)
	if err := p.attach(q); err != nil {
		return err
	}
	for range c.workers() {
		file, err := c.guest.Events.Open()
		if err != nil {
			return fmt.Errorf("open event channels: %w", err)
		}
		if err := p.addWorker(file); err != nil {
			return err
		}
	}
	if p.txPort, err = p.txWorker().bind(c.backend); err != nil {
		return err
	}
	p.rxPort = p.txPort
	if c.features.SplitChannels {
		if p.rxPort, err = p.rxWorker().bind(c.backend); err != nil {
			return err
		}
	}
	mem.record.TxPort, mem.record.RxPort = uint32(p.txPort), uint32(p.rxPort)
	ring := p.rings.Bytes()
	tag, slab, err := newDMA(c.grants, c.backend, true, pages.tx)
	if err != nil {
		return fmt.Errorf("tx: %w", err)
	}
	if p.tx, err = newTxQueue(mem.tx, ring[:xen.PageSize], tag, slab, p.reader, c.features, p.txWorker().notifier(p.txPort)); err != nil {
		return errors.Join(err, closeDMA(nil, slab, tag))
	}
	p.tx.ages.clock = c.clock
	if tag, slab, err = newDMA(c.grants, c.backend, false, pages.rx); err != nil {
		return fmt.Errorf("rx: %w", err)
	}
	if p.rx, err = newRxQueue(mem.rx, ring[xen.PageSize:], tag, slab, p.writer, p.rxWorker().notifier(p.rxPort)); err != nil {
		return errors.Join(err, closeDMA(nil, slab, tag))
	}
	return p.assign(q)
}

// adoptPair goes on with the pair that another process has left, on its pages. Files are its
// event files, tx's first; the pair has them from then on. After an error nothing is left in
// this process but the pages, and the ports stand.
func adoptPair(c pairConfig, pages pairGrants, files []xen.EventFile, number int, q *tap.Queue, mem pairMemory) (*pair, error) {
	p := &pair{number: number, rings: pages.rings}
	for i, f := range files {
		if err := p.addWorker(f); err != nil {
			for _, f := range files[i+1:] {
				err = errors.Join(err, f.Close())
			}
			return nil, fmt.Errorf("queue %d: %w", number, errors.Join(err, p.close()))
		}
	}
	if err := p.adopt(c, pages, q, mem); err != nil {
		return nil, fmt.Errorf("queue %d: %w", number, errors.Join(err, p.close()))
	}
	return p, nil
}

func (p *pair) adopt(c pairConfig, pages pairGrants, q *tap.Queue, mem pairMemory) (err error) {
	r := mem.record
	if err := p.attach(q); err != nil {
		return err
	}
	p.txPort, p.rxPort = xen.Port(r.TxPort), xen.Port(r.RxPort)
	if err := p.txWorker().adopt(p.txPort); err != nil {
		return err
	}
	if p.rxPort != p.txPort {
		if err := p.rxWorker().adopt(p.rxPort); err != nil {
			return err
		}
	}
	ring := p.rings.Bytes()
	tag, slab, err := newDMA(c.grants, c.backend, true, pages.tx)
	if err != nil {
		return fmt.Errorf("tx: %w", err)
	}
	if p.tx, err = adoptTxQueue(mem.tx, ring[:xen.PageSize], tag, slab, p.reader, c.features, p.txWorker().notifier(p.txPort)); err != nil {
		return errors.Join(err, closeDMA(nil, slab, tag))
	}
	p.tx.ages.clock = c.clock
	if tag, slab, err = newDMA(c.grants, c.backend, false, pages.rx); err != nil {
		return fmt.Errorf("rx: %w", err)
	}
	if p.rx, err = adoptRxQueue(mem.rx, ring[xen.PageSize:], tag, slab, p.writer, p.rxWorker().notifier(p.rxPort)); err != nil {
		return errors.Join(err, closeDMA(nil, slab, tag))
	}
	// What was published may not have been notified of.
	for _, w := range p.workers {
		w.tell(controlKick)
	}
	return p.assign(q)
}

// attach makes the ends of the TAP's queue.
func (p *pair) attach(q *tap.Queue) (err error) {
	if p.reader, err = q.NewReader(txBatch); err != nil {
		return fmt.Errorf("make TAP reader: %w", err)
	}
	if p.writer, err = q.NewWriter(rxBatch); err != nil {
		return fmt.Errorf("make TAP writer: %w", err)
	}
	return nil
}

// addWorker makes a worker on file, which belongs to it from then on.
func (p *pair) addWorker(file xen.EventFile) error {
	w, err := newWorker(file)
	if err != nil {
		return err
	}
	p.workers = append(p.workers, w)
	return nil
}

func (p *pair) txWorker() *worker { return p.workers[0] }
func (p *pair) rxWorker() *worker { return p.workers[len(p.workers)-1] }

// assign gives the workers their queues.
func (p *pair) assign(q *tap.Queue) error {
	p.txWorker().tx, p.rxWorker().rx = p.tx, p.rx
	if err := p.txWorker().watchTAP(q.FD()); err != nil {
		return fmt.Errorf("wait for the TAP: %w", err)
	}
	return nil
}

// start lets the workers run. Failed gets the error of each that fails.
func (p *pair) start(failed func(error)) {
	for _, w := range p.workers {
		w.running = true
		w.start(func(err error) { failed(&queueError{p.number, err}) })
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

// close frees everything but the pages. The workers must be stopped.
func (p *pair) close() error {
	var errs []error
	if p.tx != nil {
		errs = append(errs, p.tx.close())
	}
	if p.rx != nil {
		errs = append(errs, p.rx.close())
	}
	return errors.Join(append(errs, p.detach())...)
}

// detach closes what belongs to this process alone.
func (p *pair) detach() error {
	var errs []error
	for _, w := range p.workers {
		errs = append(errs, w.close())
	}
	if p.reader != nil {
		errs = append(errs, p.reader.Close())
	}
	if p.writer != nil {
		errs = append(errs, p.writer.Close())
	}
	return errors.Join(errs...)
}
