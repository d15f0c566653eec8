package tap

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrQdisc says that somebody else chose the link's queueing discipline, which is not
// touched then.
var ErrQdisc = errors.New("somebody else has set the link's queueing discipline")

// A shaped link has this tree of queueing disciplines, in tc(8)'s notation:
//
//	5846: mq                        one child for each queue of the link
//	├─ 5847: htb  └─ 5847:1 class   the rate of the first queue
//	│             └─ fq_codel ...   what the system gives a NIC by default
//	├─ 5848: htb ...                of the second
//
// Frames wait in the innermost one. There they still belong to their sockets: TCP keeps
// few of them out (TCP small queues), and a UDP sender is held back by its send buffer.
// In the TAP's own queue they belong to nobody any more (skb_orphan in tun_net_xmit of
// drivers/net/tun.c), so that TCP fills it, and a frame without a place in it is dropped.
//
// The kernel numbers disciplines from 8000: on, and the system's default one is 0:.
const (
	shapeRoot  = 0x5846 // "XF"
	shapeClass = 1      // minor of the only class
	// shapeBurst is how many bytes a queue may send at once after a pause, besides the
	// frame that is on its way. At higher rates it is what they carry in a hundredth of a
	// second, up to shapeBurstMost: what the discipline's timer is late by, on a guest whose
	// CPU is busy, is lost to the rate otherwise. At rates for which that is less than a
	// thousandth, it is what they carry in that.
	shapeBurst     = 8 << 10
	shapeBurstMost = 128 << 10
	// shapeQuantum only matters between classes. It is within what the kernel takes
	// without a warning.
	shapeQuantum = 60000
	// tickNanos is the unit of times in tc's structures (PSCHED_SHIFT of
	// include/net/pkt_sched.h).
	tickNanos = 64
	// codelTarget and codelSlack make fq_codel's target: RFC 8289's 5 ms, and the time
	// that so many bytes take at the queue's rate. TCP never has less than two frames of
	// two segments out for each flow, which CoDel must not take for a queue that it can
	// shorten: at 30 Mb/s eight flows had 2.4 % of their segments dropped without that.
	codelTarget = 5000 // µs
	codelSlack  = 64 << 10
)

// Shaper is a queue's shaper, as [Device.Shapers] finds it.
type Shaper struct {
	// Kind is the discipline in which frames wait.
	Kind string
	QdiscStats
}

// MaxShapeRate is the highest rate of a queue in bytes a second, and limits nothing that
// a TAP could carry.
const MaxShapeRate = 1<<32 - 1

// Shape limits what Linux sends through each of the link's queues, in bytes a second, as
// the kernel's disciplines count them: Ethernet frames, and of a super-frame the headers
// that its segments will have. So frames wait where their senders feel it. The first call
// puts the disciplines in place, and drops what waits in those before them; later ones
// only change rates. It fails with [ErrQdisc], and changes nothing, where the link's root
// discipline is neither the system's default nor Shape's own, and with [ErrElsewhere] where the
// link was moved to another network namespace.
func (d *Device) Shape(rates []uint64) error {
	err := d.shape(func(t *traffic) error {
		if len(rates) != len(d.queues) {
			return fmt.Errorf("%w: %d rates for %d queues", ErrSetting, len(rates), len(d.queues))
		}
		for _, r := range rates {
			if r < 1 || r > MaxShapeRate {
				return fmt.Errorf("%w: %d bytes a second, want 1 to %d", ErrSetting, r, uint64(MaxShapeRate))
			}
		}
		kinds, err := t.plantRoot(len(rates))
		if err != nil {
			return err
		}
		for i, rate := range rates {
			if err := t.shapeQueue(i, rate, kinds[i]); err != nil {
				return fmt.Errorf("queue %d: %w", i, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("shape the link: %w", err)
	}
	return nil
}

// Unshape gives the link the system's default discipline again, if it has Shape's. What
// waits is dropped.
func (d *Device) Unshape() error {
	err := d.shape(func(t *traffic) error {
		list, err := t.qdiscs()
		if err != nil {
			return err
		}
		if root := rootOf(list); root == nil || root.handle != shapeHandle {
			return nil
		}
		return t.nl.QdiscDel(&netlink.GenericQdisc{QdiscType: kindMq,
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: t.index, Handle: shapeHandle, Parent: netlink.HANDLE_ROOT}})
	})
	if err != nil {
		return fmt.Errorf("end shaping the link: %w", err)
	}
	return nil
}

// Shapers returns the shaper of each queue; shaped is false where the link is not
// shaped, and then they say what waits in the system's own disciplines, if these have one
// for each queue.
func (d *Device) Shapers() (shapers []Shaper, shaped bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, err := d.find()
	if err != nil {
		return nil, false, fmt.Errorf("list queueing disciplines: %w", err)
	}
	var list []qdisc
	err = d.traffic(l, func(t *traffic) (err error) { list, err = t.qdiscs(); return err })
	if err != nil {
		return nil, false, err
	}
	root := rootOf(list)
	shaped = root != nil && root.handle == shapeHandle
	if root == nil || root.kind != kindMq || (!shaped && root.handle != 0) {
		return nil, false, nil
	}
	shapers = make([]Shaper, len(d.queues))
	for i := range shapers {
		parent := netlink.MakeHandle(major(root.handle), uint16(i+1))
		if shaped {
			parent = classOf(i)
		}
		if at := slices.IndexFunc(list, func(q qdisc) bool { return q.parent == parent }); at >= 0 {
			shapers[i] = Shaper{list[at].kind, list[at].QdiscStats}
		}
	}
	return shapers, shaped, nil
}

// shape finds the link and calls f with the privilege to change its disciplines.
func (d *Device) shape(f func(*traffic) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, err := d.find()
	if err != nil {
		return err
	}
	if l.ns == home {
		return d.privileged(func() error { return d.traffic(l, f) })
	}
	return d.traffic(l, f)
}

// traffic calls f for the link: with the device's own sockets, or in the namespace that it
// was moved to, with privileges.
func (d *Device) traffic(l *linkInfo, f func(*traffic) error) error {
	if l.ns == home {
		return f(&traffic{index: l.index, nl: d.nl, sockets: d.rt.sockets})
	}
	return d.inside(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		defer h.Close()
		return f(&traffic{index: l.index, nl: h})
	})
}

// plantRoot puts the root in place unless it is there, and says of each of n queues which
// kind of discipline it has: htb if it is shaped, else the system's default.
func (t *traffic) plantRoot(n int) ([]string, error) {
	list, err := t.qdiscs()
	if err != nil {
		return nil, err
	}
	root := rootOf(list)
	switch {
	case root != nil && root.handle == shapeHandle:
	case root != nil && root.handle != 0:
		return nil, fmt.Errorf("%w: it is %s with the handle %x", ErrQdisc, root.kind, major(root.handle))
	default:
		mq := &netlink.GenericQdisc{QdiscType: kindMq, QdiscAttrs: netlink.QdiscAttrs{LinkIndex: t.index, Handle: shapeHandle, Parent: netlink.HANDLE_ROOT}}
		if err := t.nl.QdiscReplace(mq); err != nil {
			return nil, fmt.Errorf("set %s: %w", kindMq, err)
		}
		if list, err = t.qdiscs(); err != nil {
			return nil, err
		}
	}
	kinds := make([]string, n)
	for _, q := range list {
		parent, minor := netlink.MajorMinor(q.parent)
		if i := int(minor) - 1; parent == shapeRoot && i >= 0 && i < n {
			kinds[i] = q.kind
		}
	}
	return kinds, nil
}

// shapeQueue gives queue i its rate. A queue of another kind than htb gets htb first, and
// a discipline of that kind behind it.
func (t *traffic) shapeQueue(i int, rate uint64, kind string) error {
	htb := netlink.NewHtb(netlink.QdiscAttrs{LinkIndex: t.index, Handle: netlink.MakeHandle(major(classOf(i)), 0), Parent: netlink.MakeHandle(shapeRoot, uint16(i+1))})
	htb.Defcls = shapeClass
	if kind != kindHtb {
		if err := t.nl.QdiscReplace(htb); err != nil {
			return fmt.Errorf("set %s: %w", kindHtb, err)
		}
	}
	burst := max(shapeBurst, min(rate/100, shapeBurstMost), rate/1000)
	ticks := uint32(burst * 1_000_000_000 / rate / tickNanos)
	err := t.nl.ClassReplace(&netlink.HtbClass{
		ClassAttrs: netlink.ClassAttrs{LinkIndex: t.index, Handle: classOf(i), Parent: htb.Handle},
		Rate:       rate, Ceil: rate, Buffer: ticks, Cbuffer: ticks, Quantum: shapeQuantum,
	})
	if err != nil {
		return fmt.Errorf("set rate %d: %w", rate, err)
	}
	switch kind {
	case kindHtb, "":
		return nil
	case kindFqCodel:
		return t.setFqCodel(classOf(i), uint32(min(codelTarget+codelSlack*1_000_000/rate, 1_000_000)))
	}
	leaf := &netlink.GenericQdisc{QdiscType: kind, QdiscAttrs: netlink.QdiscAttrs{LinkIndex: t.index, Parent: classOf(i)}}
	if err := t.nl.QdiscReplace(leaf); err != nil {
		return fmt.Errorf("set %s: %w", kind, err)
	}
	return nil
}

// shapeHandle is the handle of Shape's root.
const shapeHandle = uint32(shapeRoot) << 16

// classOf is the class of queue i.
func classOf(i int) uint32 { return netlink.MakeHandle(uint16(shapeRoot+1+i), shapeClass) }

func major(handle uint32) uint16 { m, _ := netlink.MajorMinor(handle); return m }

// rootOf is the discipline that frames enter first; nil for a link that was never up.
func rootOf(list []qdisc) *qdisc {
	for i := range list {
		if list[i].parent == netlink.HANDLE_ROOT {
			return &list[i]
		}
	}
	return nil
}
