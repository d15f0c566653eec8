package tap

import (
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hardwareRequest is struct ifreq (include/uapi/linux/if.h) with a hardware address.
type hardwareRequest struct {
	name   [unix.IFNAMSIZ]byte
	family uint16
	mac    [6]byte
	_      [16]byte
}

// hardwareAddress asks the link of a queue for its address, whatever namespace it is in
// (__tun_chr_ioctl of drivers/net/tun.c).
func hardwareAddress(queue int) (net.HardwareAddr, error) {
	var req hardwareRequest
	if err := req.do(queue, unix.SIOCGIFHWADDR); err != nil {
		return nil, err
	}
	return net.HardwareAddr(req.mac[:]), nil
}

// setHardwareAddress gives the link of a queue an address, in the same way.
func setHardwareAddress(queue int, mac net.HardwareAddr) error {
	req := hardwareRequest{family: unix.ARPHRD_ETHER, mac: [6]byte(mac)}
	return req.do(queue, unix.SIOCSIFHWADDR)
}

func (r *hardwareRequest) do(queue int, request uintptr) error {
	// Sound: the kernel reads and writes sizeof(struct ifreq), 40 bytes, of which r has all,
	// and keeps no pointer to it.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(queue), request, uintptr(unsafe.Pointer(r)))
	switch errno {
	case 0:
		return nil
	case unix.EBADFD:
		return fmt.Errorf("ask the queue's link: %w", ErrLinkGone)
	}
	return fmt.Errorf("ask the queue's link: %w", errno)
}
