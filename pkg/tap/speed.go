package tap

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Link speeds in Mb/s. Linux before 6.2 says 10 of a TAP, and 10000 since
// (tun_default_link_ksettings of drivers/net/tun.c). Whoever computes how busy a link is
// gets nonsense with 10; and a NIC without a cable has the speed of its model.
const (
	speedLow  = 10
	speedHigh = 10000
)

// Commands of SIOCETHTOOL (include/uapi/linux/ethtool.h).
const (
	getLinkSettings = 0x4c // ETHTOOL_GLINKSETTINGS
	setLinkSettings = 0x4d // ETHTOOL_SLINKSETTINGS
)

// linkSettings is struct ethtool_link_settings, 48 bytes, with room for the three masks of
// link modes behind it. How many words a mask has is the kernel's to say: asked with
// another number than its own, it answers with that, below zero.
type linkSettings struct {
	command uint32
	speed   uint32 // Mb/s
	duplex  uint8
	_       [6]uint8 // port, phy_address, autoneg, mdio_support, eth_tp_mdix, eth_tp_mdix_ctrl
	words   int8
	_       [4]uint8 // transceiver, master_slave_cfg, master_slave_state, rate_matching
	_       [7]uint32
	masks   [3 * 127]uint32
}

// ifreqData is struct ifreq with a pointer in it, 40 bytes.
type ifreqData struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// raiseSpeed has the link say 10 Gb/s where the kernel says 10 Mb/s of it. Anything else
// is somebody's wish, or a newer kernel's.
func (d *Device) raiseSpeed() error {
	return d.withSettings(func(ask func(command uint32) error, s *linkSettings) error {
		if err := ask(getLinkSettings); err != nil || s.speed != speedLow {
			return err
		}
		s.speed = speedHigh
		return ask(setLinkSettings)
	})
}

// withSettings calls f with the link's settings and what asks the kernel about them.
func (d *Device) withSettings(f func(ask func(command uint32) error, s *linkSettings) error) error {
	return d.ns.run(func() error {
		// Any socket will do; one of this family is what the daemon's sandbox allows.
		socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a socket for the link's speed: %w", err)
		}
		defer unix.Close(socket)
		name, _, err := queueInfo(d.keeper)
		if err != nil {
			return err
		}
		s := new(linkSettings)
		ask := func(command uint32) error {
			s.command = command
			return d.privileged(func() error { return ethtool(socket, name, s) })
		}
		if err := ask(getLinkSettings); err != nil {
			return err
		}
		if s.words = -s.words; s.words <= 0 {
			return fmt.Errorf("link speed: the kernel has masks of %d words", s.words)
		}
		return f(ask, s)
	})
}

// ethtool is one request. The kernel reads and writes as many words of the masks as it has.
func ethtool(socket int, name string, s *linkSettings) error {
	r := ifreqData{data: unsafe.Pointer(s)}
	copy(r.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("link speed: %w", errno)
	}
	return nil
}
