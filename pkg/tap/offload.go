package tap

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Offload is a set of what a reader of the TAP is ready to do for Linux (TUN_F_* of
// include/uapi/linux/if_tun.h). It concerns only frames that Linux sends; what may be
// written does not depend on it.
//
// Two more bits of the kernel are left out on purpose. A Xen ring cannot carry UDP
// segmentation (USO); Linux then segments before the TAP. And without TSO_ECN it
// segments the rare super-frame that has CWR set, which a backend may not do right.
type Offload uint32

const (
	// OffloadCsum lets Linux leave TCP and UDP checksums unfinished, IPv4 and IPv6
	// alike. The others need it.
	OffloadCsum Offload = unix.TUN_F_CSUM
	// OffloadTSO4 lets Linux hand over TCP super-frames over IPv4.
	OffloadTSO4 Offload = unix.TUN_F_TSO4
	// OffloadTSO6 lets Linux hand over TCP super-frames over IPv6.
	OffloadTSO6 Offload = unix.TUN_F_TSO6
)

// ProbeOffload is what the kernel accepted when the link was created.
func (d *Device) ProbeOffload() Offload { return d.accepted }

// SetOffload sets what Linux may leave undone in frames that it sends. It takes effect
// for frames not yet queued: those already in a queue keep what they were made with.
// TSO without checksums, and what [Device.ProbeOffload] does not hold, is [ErrOffload].
func (d *Device) SetOffload(o Offload) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	if o&^d.accepted != 0 {
		return fmt.Errorf("%w: %#x, the kernel accepts %#x", ErrOffload, uint32(o), uint32(d.accepted))
	}
	if o != 0 && o&OffloadCsum == 0 {
		return fmt.Errorf("%w: %#x: segmentation needs checksums", ErrOffload, uint32(o))
	}
	return setOffload(d.keeper, o)
}

func setOffload(fd int, o Offload) error {
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, int(o)); err != nil {
		return fmt.Errorf("set offloads: %w", err)
	}
	return nil
}

// probeOffload tries each offload and leaves all of them off.
func probeOffload(keeper int) (Offload, error) {
	var accepted Offload
	for _, o := range []Offload{OffloadCsum, OffloadTSO4, OffloadTSO6} {
		if setOffload(keeper, o|OffloadCsum) == nil {
			accepted |= o
		}
	}
	if accepted&OffloadCsum == 0 {
		accepted = 0
	}
	return accepted, setOffload(keeper, 0)
}
