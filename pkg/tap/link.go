package tap

import (
	"bytes"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// MaxFrame is the longest frame in bytes that a Xen ring carries, from the
	// destination address to the end of the payload, VLAN tags included
	// (the 16-bit size of netif_tx_request).
	MaxFrame = 65535
	// MaxMTU keeps an untagged and a singly tagged frame within MaxFrame: Linux lets
	// a VLAN link have the MTU of the link below it. (A TAP itself would take 65521.)
	MaxMTU = MaxFrame - EthernetHeader - tagSize
	// MinMTU is the kernel's least MTU of a TAP (MIN_MTU of drivers/net/tun.c).
	MinMTU = 68
	// MaxGSOSize keeps super-frames within MaxFrame. Linux segments a frame itself
	// when its length, Ethernet header and in-band tags included, reaches
	// gso_max_size (gso_features_check of net/core/dev.c); a tag beside the frame is
	// put in after that check.
	MaxGSOSize = MaxFrame - tagSize + 1
	// ReadRoom is the room in bytes that a buffer needs so that no frame is ever cut:
	// a TAP cuts without a word. It holds the virtio header and the longest frame
	// that any setting of the link lets through, which is one with two tags, at the
	// kernel's own largest MTU.
	ReadRoom = VirtioHeaderSize + MaxFrame + 2*tagSize
)

// DefaultQueueLen is how many frames each queue of a TAP holds that nobody has said anything
// about (DEFAULT_TX_QUEUE_LEN of the kernel's include/net/pkt_sched.h).
const DefaultQueueLen = 1000

// dumpTries bounds how often a listing that changed while it was read is read again.
const dumpTries = 8

// Stats are the link's counters as Linux keeps them: Rx is what the writers handed in,
// Tx what Linux sent towards the readers.
type Stats struct {
	RxPackets uint64 `json:"rx_packets"`
	RxBytes   uint64 `json:"rx_bytes"`
	RxErrors  uint64 `json:"rx_errors"`
	RxDropped uint64 `json:"rx_dropped"`
	TxPackets uint64 `json:"tx_packets"`
	TxBytes   uint64 `json:"tx_bytes"`
	TxErrors  uint64 `json:"tx_errors"`
	// TxDropped counts frames for which a queue had no room, or that met no queue.
	TxDropped uint64 `json:"tx_dropped"`
}

// SetUp sets whether the link is administratively up. Writing to a link that is down
// gives EIO.
func (d *Device) SetUp(up bool) error {
	if up {
		return d.change("link up", (*netlink.Handle).LinkSetUp)
	}
	return d.change("link down", (*netlink.Handle).LinkSetDown)
}

// SetMAC sets the link's address, up or down. It must be 6 bytes, unicast, not zero.
func (d *Device) SetMAC(mac net.HardwareAddr) error {
	if len(mac) != 6 || mac[0]&1 != 0 || [6]byte(mac) == [6]byte{} {
		return fmt.Errorf("set MAC address: %w: %q", ErrSetting, mac)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("set MAC address: %w", ErrClosed)
	}
	if err := setHardwareAddress(d.keeper, mac); err != nil {
		return fmt.Errorf("set MAC address: %w", err)
	}
	return nil
}

// MAC is the link's address now: somebody may have changed it since it was set.
func (d *Device) MAC() (net.HardwareAddr, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("read MAC address: %w", ErrClosed)
	}
	mac, err := hardwareAddress(d.keeper)
	if err != nil {
		return nil, fmt.Errorf("read MAC address: %w", err)
	}
	return mac, nil
}

// SetMTU sets the link's MTU in bytes, from [MinMTU] to [MaxMTU].
func (d *Device) SetMTU(mtu int) error {
	if mtu < MinMTU || mtu > MaxMTU {
		return fmt.Errorf("set MTU: %w: %d, want %d to %d", ErrSetting, mtu, MinMTU, MaxMTU)
	}
	return d.change("MTU", func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkSetMTU(l, mtu) })
}

// SetTxQueueLen sets how many frames each queue holds; more are dropped. Frames that
// wait beyond the new length are dropped too.
func (d *Device) SetTxQueueLen(frames int) error {
	if frames < 1 || frames > 1<<16 {
		return fmt.Errorf("set transmit queue length: %w: %d, want 1 to %d", ErrSetting, frames, 1<<16)
	}
	return d.change("transmit queue length", func(nl *netlink.Handle, l netlink.Link) error { return nl.LinkSetTxQLen(l, frames) })
}

// SetGSOMaxSize limits the super-frames that Linux makes, in bytes, at most
// [MaxGSOSize], which is also what Create sets. Both of the kernel's limits are set, the
// one for IPv6 and the one for IPv4; so IPv6 packets over 65535 bytes (BIG TCP) cannot
// be switched on by accident, and a TAP's own ceiling (tso_max_size, 65536) refuses them
// if somebody tries.
//
// TCP of this machine stays some 320 bytes below the limit (sk_dst_gso_max_size keeps
// MAX_TCP_HEADER free); forwarded frames can reach it. A kernel without the check that
// [MaxGSOSize] rests on (it came after 6.6) lets longer ones of these through, so a reader
// still has to look at the length.
func (d *Device) SetGSOMaxSize(size int) error {
	if size < 1 || size > MaxGSOSize {
		return fmt.Errorf("set GSO size: %w: %d, want 1 to %d", ErrSetting, size, MaxGSOSize)
	}
	return d.change("GSO size", func(nl *netlink.Handle, l netlink.Link) error { return d.setGSO(nl, l, size) })
}

// LimitGSO is SetGSOMaxSize, unless somebody else has set the limit since this process did.
func (d *Device) LimitGSO(size int) error {
	if size < 1 || size > MaxGSOSize {
		return fmt.Errorf("limit GSO size: %w: %d, want 1 to %d", ErrSetting, size, MaxGSOSize)
	}
	return d.change("GSO size", func(nl *netlink.Handle, l netlink.Link) error {
		now := int(l.Attrs().GSOMaxSize)
		if now == size || (d.gso != 0 && now != d.gso) {
			return nil
		}
		return d.setGSO(nl, l, size)
	})
}

func (d *Device) setGSO(nl *netlink.Handle, l netlink.Link, size int) error {
	// A kernel before 6.3 ignores the second: it has only one limit.
	err := errors.Join(nl.LinkSetGSOMaxSize(l, size), nl.LinkSetGSOIPv4MaxSize(l, size))
	if err == nil {
		d.gso = size
	}
	return err
}

// Addresses are the link's own IPv4 and IPv6 addresses, as far as they are in use already.
func (d *Device) Addresses() ([]net.IP, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, err := d.find()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	all, err := d.rt.addresses(l.ns)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return all[l.index], nil
}

// Stats reads the link's counters.
func (d *Device) Stats() (Stats, error) {
	s, err := d.State()
	if err == nil && !s.Known {
		err = ErrElsewhere
	}
	return s.Stats, err
}

// removeLink deletes the link l when it outlived our descriptors: another process holds
// some, or an io_uring has not let go yet.
func (d *Device) removeLink(l *linkInfo) error {
	now, err := d.rt.linkByIndex(l.ns, l.index)
	if err != nil || now.name != l.name || !bytes.Equal(now.mac, l.mac) {
		return nil // gone
	}
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.index)
	_, err = d.rt.ask(l.ns, unix.IFLA_TARGET_NETNSID, unix.RTM_DELLINK, unix.NLM_F_ACK, 0, msg)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %q: %w", l.name, err)
	}
	return nil
}
