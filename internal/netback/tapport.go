package netback

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"golang.org/x/sys/unix"
)

// TAPPort is a port that is a TAP link: Linux on the backend's side sees the vif as
// it sees xen-netback's.
type TAPPort struct {
	device *tap.Device
	queues []*tapQueue
}

// NewTAPPort makes a TAP link, up and without carrier, in the network namespace of
// the calling thread.
func NewTAPPort(cfg tap.Config) (*TAPPort, error) {
	d, err := tap.Create(cfg)
	if err != nil {
		return nil, fmt.Errorf("create port: %w", err)
	}
	if err := d.SetUp(true); err != nil {
		return nil, errors.Join(fmt.Errorf("create port: %w", err), d.Close())
	}
	return &TAPPort{device: d}, nil
}

// Device is the link.
func (p *TAPPort) Device() *tap.Device { return p.device }

// Attach implements [Port]. Queues stay open from one connect to the next; what
// waits in them from before is dropped.
func (p *TAPPort) Attach(n int, takes Takes) ([]PortQueue, error) {
	var o tap.Offload
	if takes.CsumIPv4 || takes.CsumIPv6 { // a TAP does not tell them apart
		o = tap.OffloadCsum
		if takes.GSOv4 {
			o |= tap.OffloadTSO4
		}
		if takes.GSOv6 {
			o |= tap.OffloadTSO6
		}
	}
	if err := p.device.SetOffload(o & p.device.ProbeOffload()); err != nil {
		return nil, err
	}
	opened, err := p.device.SetQueues(n)
	if err != nil {
		return nil, err
	}
	queues := make([]PortQueue, 0, n)
	for _, q := range opened {
		t, err := newTAPQueue(q)
		if err != nil {
			return nil, errors.Join(err, p.Detach())
		}
		p.queues = append(p.queues, t)
		queues = append(queues, t)
	}
	for _, q := range p.queues {
		q.drain()
	}
	return queues, nil
}

// Detach implements [Port].
func (p *TAPPort) Detach() error {
	var errs []error
	for _, q := range p.queues {
		errs = append(errs, q.reader.Close(), q.writer.Close())
	}
	p.queues = nil
	return errors.Join(errs...)
}

// SetCarrier implements [Port].
func (p *TAPPort) SetCarrier(on bool) error { return p.device.SetCarrier(on) }

// Close implements [Port]. The link goes.
func (p *TAPPort) Close() error {
	return errors.Join(p.Detach(), p.device.Close())
}

// tapQueue is one queue of a TAPPort.
type tapQueue struct {
	fd     int
	reader *tap.Reader
	writer *tap.Writer
	read   [1 + directSlots]unix.Iovec
	pieces [txBatch][2 + maxSlots]unix.Iovec // of each frame that is written
	frames [txBatch][]unix.Iovec
	res    [txBatch]int32
}

func newTAPQueue(q *tap.Queue) (*tapQueue, error) {
	r, err := q.NewReader(rxBatch)
	if err != nil {
		return nil, err
	}
	w, err := q.NewWriter(txBatch)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return &tapQueue{fd: q.FD(), reader: r, writer: w}, nil
}

// drain drops the frames that wait.
func (q *tapQueue) drain() {
	b := [][]byte{make([]byte, rxRoom)}
	var n [1]int
	for {
		if got, err := q.reader.Read(b, n[:]); got == 0 || err != nil {
			return
		}
	}
}

func (q *tapQueue) FD() int { return q.fd }

func (q *tapQueue) Read(bufs [][]byte, sizes []int) (int, error) {
	return q.reader.Read(bufs, sizes)
}

// ReadFrame reads with one readv(2). The raw system call keeps the processor, as
// the queue's descriptor never blocks. The gather list is a field of q, and what it
// points to, q's caller holds: both outlive the call and do not move.
func (q *tapQueue) ReadFrame(parts [][]byte) (int, error) {
	list := q.read[:0]
	for _, p := range parts[:min(len(parts), len(q.read))] {
		list = append(list, gather(p))
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READV, uintptr(q.fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(list))), uintptr(len(list)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, fmt.Errorf("read frame: %w", errno)
		}
	}
}

// gather is one entry of a gather list.
func gather(p []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(p)}
	v.SetLen(len(p))
	return v
}

func (q *tapQueue) Write(frames []Outgoing, errs []error) {
	for i, f := range frames {
		list := q.pieces[i][:0]
		for _, p := range f.Parts {
			list = append(list, gather(p))
		}
		q.frames[i] = list
	}
	err := q.writer.Write(q.frames[:len(frames)], q.res[:])
	for i := range frames {
		errs[i] = err
		if err == nil && q.res[i] < 0 {
			errs[i] = unix.Errno(-q.res[i])
		}
	}
}
