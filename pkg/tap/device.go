package tap

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Errors of this package. They are wrapped with what failed.
var (
	// ErrNameTaken says that a link of the wanted name exists already.
	ErrNameTaken = errors.New("name is taken by another link")
	// ErrLinkGone says that the link does not exist any more: somebody deleted it, or the
	// network namespace in which it was.
	ErrLinkGone = errors.New("link is gone")
	// ErrQueue says that a queue is not what it must be: not one of this link, or
	// without the virtio header.
	ErrQueue = errors.New("not a proper queue of the link")
	// ErrOffload says that a set of offloads cannot be had.
	ErrOffload = errors.New("offloads cannot be set")
	// ErrSetting says that a setting is out of its range.
	ErrSetting = errors.New("setting out of range")
	// ErrClosed says that the device or the queue was closed.
	ErrClosed = errors.New("closed")
)

// Config is what a TAP is made with.
type Config struct {
	// Name is the link's name, see [CheckName]. A pattern such as "xnf%d" takes the
	// first free number; empty means [DefaultName].
	Name string
	// MAC is the link's address; nil leaves it to the kernel, which takes a random one.
	MAC net.HardwareAddr
	// MTU in bytes, at most [MaxMTU]; 0 means 1500.
	MTU int
	// TxQueueLen is how many frames each queue holds; 0 leaves the kernel's default
	// ([DefaultQueueLen]). What exceeds it is dropped and counted in [Stats].TxDropped,
	// unless the TAP stops its queueing discipline then ([Device.Pushes]).
	TxQueueLen int
	// NoUring makes readers and writers use plain reads and writes.
	NoUring bool
	// Privileged calls what needs CAP_NET_ADMIN, on the calling thread and with the
	// capability in effect, for a process that otherwise has it out of effect. The
	// function makes no call of it in turn. Nil: it is called plainly.
	Privileged func(func() error) error
}

// Device is a TAP link together with its keeper queue and its worker queues.
type Device struct {
	ns       namespace
	keeper   int // descriptor; -1 before it is open
	accepted Offload
	newUring makeUring // another one in tests
	noUring  bool      // Config.NoUring
	pushes   bool      // see Pushes

	privileged func(func() error) error

	rt       *rtnl
	changes  *changes
	surveyed func() // called between the two looks of Stations; tests change something in it

	mu        sync.Mutex // guards what follows and the order of changes to the link
	nl        *netlink.Handle
	index     int    // of the link in its namespace, as it was seen last
	elsewhere string // the namespace in which it was seen last, as people call it; empty: ns
	queues    []*Queue
	uringErr  error // why io_uring cannot be used at all, as of the last try
	carrier   bool  // wanted
	gso       int   // the limit of super-frames that was set last; 0: none by this process
	unset     bool  // nobody has said yet what carrier is wanted: it stays what it is
	closed    bool
}

// step is a part of Create that can fail and must then leave nothing behind.
type step struct {
	name string
	do   func() error
}

// Create makes the link, down, with the carrier off, without any worker queue and with
// all offloads off, in the network namespace of the calling thread. On an error
// nothing is left behind. A taken name is [ErrNameTaken], a bad one [ErrName], a bad
// setting [ErrSetting]. It needs CAP_NET_ADMIN.
func Create(cfg Config) (*Device, error) {
	return create(cfg, func(string) error { return nil })
}

// create is Create with a look in after each step, which tests fail on purpose.
func create(cfg Config, after func(step string) error) (*Device, error) {
	if cfg.Name == "" {
		cfg.Name = DefaultName
	}
	if err := CheckName(cfg.Name, true); err != nil {
		return nil, fmt.Errorf("create link: %w", err)
	}
	// The link, its descriptors and the netlink socket must be of one namespace.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d := emptyDevice(cfg)
	for _, s := range d.createSteps(cfg) {
		err := s.do()
		if err == nil {
			err = after(s.name)
		}
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

// emptyDevice has nothing of a link yet.
func emptyDevice(cfg Config) *Device {
	d := &Device{keeper: -1, ns: noNamespace(), newUring: newUring, noUring: cfg.NoUring, privileged: cfg.Privileged, surveyed: func() {}}
	if d.privileged == nil {
		d.privileged = func(f func() error) error { return f() }
	}
	return d
}

func (d *Device) createSteps(cfg Config) []step {
	return []step{
		{"namespace", func() (err error) { d.ns, err = currentNamespace(); return err }},
		{"netlink", d.openNetlink},
		{"link", func() error {
			return d.privileged(func() (err error) { d.keeper, d.index, err = openKeeper(d.nl, cfg.Name); return err })
		}},
		// At once: to udev, which looks at each new link, one whose address nobody has set
		// yet is one to be given an address (MACAddressPolicy=persistent of systemd.link(5)).
		{"mac", func() error { return unlessZero(len(cfg.MAC), func() error { return d.SetMAC(cfg.MAC) }) }},
		{"header", func() error { return setHeader(d.keeper) }},
		{"detach", func() error { return detachQueue(d.keeper) }},
		{"check", func() error { _, err := checkQueue(d.keeper, true); return err }},
		{"pushes", func() (err error) { d.pushes, err = pushesBack(d.keeper); return err }},
		{"carrier", d.applyCarrier},
		{"offload", func() (err error) { d.accepted, err = probeOffload(d.keeper); return err }},
		{"gso", func() error { return d.SetGSOMaxSize(MaxGSOSize) }},
		{"mtu", func() error { return unlessZero(cfg.MTU, func() error { return d.SetMTU(cfg.MTU) }) }},
		{"txqueuelen", func() error {
			return unlessZero(cfg.TxQueueLen, func() error { return d.SetTxQueueLen(cfg.TxQueueLen) })
		}},
		// For the eye: a link is as good without, so a kernel that refuses it is no matter.
		{"speed", func() error { _ = d.raiseSpeed(); return nil }},
		{"uring", func() error { d.uringErr = d.tryUring(d.keeper); return nil }},
	}
}

func unlessZero(setting int, set func() error) error {
	if setting == 0 {
		return nil
	}
	return set()
}

// openNetlink opens the sockets, with privileges as openRTNL says.
func (d *Device) openNetlink() error {
	err := d.privileged(func() (err error) {
		d.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	if d.rt, err = openRTNL(d.privileged); err != nil {
		return err
	}
	d.changes, err = watchChanges(d.privileged)
	return err
}

// Name is the link's name now; somebody may have renamed it since it was made. It is
// empty when the link is gone.
func (d *Device) Name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	name, _, err := queueInfo(d.keeper)
	if err != nil {
		return ""
	}
	return name
}

// Index is the link's interface index in the namespace in which it was seen last.
func (d *Device) Index() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.index
}

// Pushes says that a full queue of the link stops the queueing discipline in front of it,
// where senders wait (IFF_BACKPRESSURE, Linux 7.3). Without that it drops.
func (d *Device) Pushes() bool { return d.pushes }

// UringError says why readers and writers of this device, or some of them, use plain reads
// and writes now: io_uring can be refused from the start, when another ring is made, and to
// a ring in use. Nil means that all use it that want to ([Reader.Batched]).
func (d *Device) UringError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.uringErr != nil {
		return d.uringErr
	}
	for _, q := range d.queues {
		for i := range q.plain {
			if err := q.plain[i].why.Load(); err != nil {
				return *err
			}
		}
	}
	return nil
}

// SetCarrier sets whether the link's cable is plugged in (TUNSETCARRIER): without a
// carrier Linux drops what it would send before it reaches a queue. A link without a
// worker queue has no carrier, whatever is set here; it gets it with its first queue.
func (d *Device) SetCarrier(on bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	before, unset := d.carrier, d.unset
	d.carrier, d.unset = on, false
	if err := d.applyCarrier(); err != nil {
		d.carrier, d.unset = before, unset
		return err
	}
	return nil
}

// applyCarrier makes the link's carrier what is wanted. The kernel refuses a carrier
// without an attached queue (tun_net_change_carrier) but leaves it on when the last
// one goes.
func (d *Device) applyCarrier() error {
	if d.unset {
		return nil
	}
	value := 0
	if d.carrier && len(d.queues) > 0 {
		value = 1
	}
	if err := unix.IoctlSetPointerInt(d.keeper, unix.TUNSETCARRIER, value); err != nil {
		return fmt.Errorf("set carrier: %w", err)
	}
	return nil
}

// Close closes the queues and the keeper and removes the link, even when another
// process holds descriptors of it. The goroutines that work on the queues must have
// stopped. A second Close does nothing.
func (d *Device) Close() error {
	return d.end(true)
}

// Release closes this process's descriptors of the link and leaves the link alone: it
// lives on when another process holds one of them, and goes when none does.
func (d *Device) Release() error {
	return d.end(false)
}

func (d *Device) end(remove bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	var errs []error
	for i := len(d.queues) - 1; i >= 0; i-- {
		errs = append(errs, d.queues[i].closeDescriptor())
	}
	d.queues = nil
	if d.keeper >= 0 {
		var l *linkInfo
		if remove && d.rt != nil {
			l, _ = d.look()
		}
		if err := unix.Close(d.keeper); err != nil {
			errs = append(errs, fmt.Errorf("close keeper queue: %w", err))
		}
		d.keeper = -1
		if l != nil {
			errs = append(errs, d.removeLink(l))
		}
	}
	d.changes.close()
	d.rt.close()
	if d.nl != nil {
		d.nl.Close()
	}
	return errors.Join(append(errs, d.ns.close())...)
}
