package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bucket limits what a device sends as xen-netback limits a guest: credit for so many
// bytes, all at once at the end of each interval, and a full allowance that holds at
// least one frame of any size. In front of it frames wait in a FIFO.
//
// It stands for xen-netfront, which this machine cannot run without Xen. That driver
// keeps a frame until netback answers it, and stops its queue while the ring's 256
// slots are full: what waits in the ring and what waits in the qdisc before it still
// belongs to its socket, so that TCP keeps little of it there and a socket's send
// buffer is full before the queue is. To the sender ring and qdisc are one FIFO of as
// many frames as the link's queue length says, and so is the qdisc here. It is a plain
// FIFO on all machines; with fq_codel before it xen-netfront does no worse.
// It counts the headers of all segments of a super-frame, and netback those of the
// first: up to 4 % of the throughput.
//
// The kernel's token bucket (tbf) has the right queue and the wrong filling: tokens
// drip into it all the time, while each frame that comes to netback after the credit
// is spent waits for the end of the interval, 25 ms on average. Compared with that no
// frontend could look good. So its rate is next to nothing, and this process fills it
// when an interval ends: to change a tbf is to fill it.
type bucket struct {
	nl     *netlink.Handle
	link   netlink.Link
	bytes  uint32 // credit for each interval
	left   uint32
	sent   uint64 // by the device, when it was last filled
	waker  int    // a packet socket; its frames make the qdisc look again
	stop   chan struct{}
	failed chan error
}

const (
	// creditInterval is how often credit comes. libxl asks for 50 ms unless the guest's
	// configuration says otherwise; a kernel that ticks 250 times a second, as those of
	// distributions do, makes 52 of them.
	creditInterval = 52 * time.Millisecond
	libxlInterval  = 50 * time.Millisecond
	// creditBurst is xen-netback's least for a full allowance.
	creditBurst = 131072
	// dripParts is into how many parts the rate is divided for tbf's own filling.
	dripParts = 4000
	dripLeast = 600 // bytes/s: below, tbf's 32 bits do not hold the full allowance
	// queueFrames is a device's default queue length.
	queueFrames = 1000
	// wakeType is the EtherType for local experiments (IEEE 802).
	wakeType = 0x88b5
)

// creditBytes are those of an interval for a rate in Mb/s, as libxl computes them.
func creditBytes(mbit int) uint32 {
	return uint32(float64(mbit) * 1e6 / 8 * libxlInterval.Seconds())
}

// newBucket puts a bucket before a device of s and fills it until close.
func newBucket(s *space, device string, mbit int) (*bucket, error) {
	link, err := s.Links.LinkByName(device)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", device, err)
	}
	b := &bucket{nl: s.Links, link: link, bytes: creditBytes(mbit), waker: -1, stop: make(chan struct{}), failed: make(chan error, 1)}
	if err := b.open(s); err != nil {
		return nil, err
	}
	go b.run()
	return b, nil
}

// open makes the qdisc, with a first allowance in it.
func (b *bucket) open(s *space) error {
	err := s.Do(func() (err error) {
		b.waker, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	b.left = b.bytes
	if err := errors.Join(b.nl.QdiscReplace(b.qdisc()), b.nl.QdiscReplace(b.fifo())); err != nil {
		unix.Close(b.waker)
		return fmt.Errorf("limit the rate of %s (the kernel needs CONFIG_NET_SCH_TBF; -only leaves such rows out): %w", b.link.Attrs().Name, err)
	}
	return nil
}

// qdisc is the tbf with what is left of the credit.
func (b *bucket) qdisc() *netlink.Tbf {
	drip := max(uint64(float64(b.bytes)/creditInterval.Seconds())/dripParts, dripLeast)
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: b.link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       drip,
		Limit:      queueFrames, // handed on to the FIFO in it
		Buffer:     netlink.Xmittime(drip, b.left),
	}
}

// fifo is the queue in the tbf, as long as the device's queue length.
func (b *bucket) fifo() netlink.Qdisc {
	return &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: b.link.Attrs().Index, Handle: netlink.MakeHandle(2, 0), Parent: netlink.MakeHandle(1, 1)},
		QdiscType:  "pfifo",
	}
}

// run fills the bucket until it is closed.
func (b *bucket) run() {
	tick := time.NewTicker(creditInterval)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			b.failed <- nil
			return
		case <-tick.C:
		}
		if err := b.fill(); err != nil {
			b.failed <- fmt.Errorf("fill the bucket of %s: %w", b.link.Attrs().Name, err)
			return
		}
	}
}

// fill adds an interval's credit to what is left, and has the qdisc look again.
func (b *bucket) fill() error {
	sent, err := b.bytesSent()
	if err != nil {
		return err
	}
	spent := uint32(min(sent-b.sent, uint64(b.left)))
	b.sent = sent
	b.left = min(b.left-spent+b.bytes, max(creditBurst, b.bytes))
	if err := b.nl.QdiscChange(b.qdisc()); err != nil {
		return err
	}
	frame := [60]byte{12: wakeType >> 8, 13: wakeType & 0xff}
	to := &unix.SockaddrLinklayer{Ifindex: b.link.Attrs().Index}
	if err := unix.Sendto(b.waker, frame[:], 0, to); err != nil && !errors.Is(err, unix.ENOBUFS) {
		return err // ENOBUFS: the queue is full, which is as good
	}
	return nil
}

// bytesSent is how many bytes have left the qdisc.
func (b *bucket) bytesSent() (uint64, error) {
	all, err := b.nl.QdiscList(b.link)
	if err != nil {
		return 0, err
	}
	for _, q := range all {
		if a := q.Attrs(); a.Parent == netlink.HANDLE_ROOT && a.Statistics != nil && a.Statistics.Basic != nil {
			return a.Statistics.Basic.Bytes, nil
		}
	}
	return 0, errors.New("its qdisc is gone")
}

// close stops the filling, and returns why it stopped if it did so by itself.
func (b *bucket) close() error {
	close(b.stop)
	return errors.Join(<-b.failed, unix.Close(b.waker))
}

// alive is nil while the bucket is filled.
func (b *bucket) alive() error {
	select {
	case err := <-b.failed:
		b.failed <- err // for close
		return err
	default:
		return nil
	}
}
