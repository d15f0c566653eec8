package tap

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// featureNames are the kernel's names of the offloads (net/ethtool/common.c), as `ethtool -k`
// shows them.
var featureNames = map[Offload]string{
	OffloadCsum: "tx-checksum-ip-generic",
	OffloadTSO4: "tx-tcp-segmentation",
	OffloadTSO6: "tx-tcp6-segmentation",
}

// WantedOffload is what is switched on of the offloads that were set last, and what an
// administrator has not switched off since with `ethtool -K`.
func (d *Device) WantedOffload() (on Offload, err error) {
	err = d.features("read offloads", func(f *features) error {
		for o, bit := range f.bits {
			if f.blocks[bit/32].requested>>(bit%32)&1 != 0 {
				on |= o
			}
		}
		return nil
	})
	return on, err
}

// SwitchOff switches offloads off as `ethtool -K` does: they can be switched on again in the
// same way, without a new [Device.SetOffload], which switches on all that it sets.
func (d *Device) SwitchOff(o Offload) error {
	return d.features("switch offloads off", func(f *features) error { return f.switchOff(o) })
}

// features calls f with the link's features, in its network namespace.
func (d *Device) features(what string, f func(*features) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	l, err := d.find()
	if err == nil {
		err = d.inside(func() error {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			list, err := readFeatures(fd, l.name)
			if err != nil {
				return err
			}
			return f(list)
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Sizes of include/uapi/linux/ethtool.h, and its set of strings that names features.
const (
	featureSet   = 4 // ETH_SS_FEATURES
	stringLength = 32
	maxFeatures  = 256
	blockBits    = 32
)

// featureBlock is struct ethtool_get_features_block: 32 features.
type featureBlock struct{ available, requested, active, neverChanged uint32 }

// features are what a link can do for Linux.
type features struct {
	socket int
	name   string
	bits   map[Offload]int // the numbers of ours
	blocks [maxFeatures / blockBits]featureBlock
	n      uint32 // blocks that there are
}

// readFeatures asks through any socket of the link's namespace.
func readFeatures(socket int, name string) (*features, error) {
	f := &features{socket: socket, name: name, bits: map[Offload]int{}}
	var names struct { // struct ethtool_gstrings
		command, set, length uint32
		data                 [maxFeatures * stringLength]byte
	}
	var count struct { // struct ethtool_sset_info
		command, _ uint32
		mask       uint64
		length     uint32
	}
	count.command, count.mask = unix.ETHTOOL_GSSET_INFO, 1<<featureSet
	if err := f.ask(unsafe.Pointer(&count)); err != nil {
		return nil, err
	}
	if count.mask == 0 || count.length > maxFeatures {
		return nil, fmt.Errorf("the kernel has %d features", count.length)
	}
	names.command, names.set, names.length = unix.ETHTOOL_GSTRINGS, featureSet, count.length
	if err := f.ask(unsafe.Pointer(&names)); err != nil {
		return nil, err
	}
	for i := range int(count.length) {
		for o, feature := range featureNames {
			if unix.ByteSliceToString(names.data[i*stringLength:(i+1)*stringLength]) == feature {
				f.bits[o] = i
			}
		}
	}
	if len(f.bits) != len(featureNames) {
		return nil, errors.New("the kernel does not know all of the offloads")
	}
	var get struct { // struct ethtool_gfeatures
		command, size uint32
		blocks        [maxFeatures / blockBits]featureBlock
	}
	get.command, get.size = unix.ETHTOOL_GFEATURES, uint32(len(get.blocks))
	if err := f.ask(unsafe.Pointer(&get)); err != nil {
		return nil, err
	}
	f.blocks, f.n = get.blocks, (count.length+blockBits-1)/blockBits
	return f, nil
}

func (f *features) switchOff(o Offload) error {
	var set struct { // struct ethtool_sfeatures
		command, size uint32
		blocks        [maxFeatures / blockBits]struct{ valid, requested uint32 }
	}
	set.command, set.size = unix.ETHTOOL_SFEATURES, f.n
	for one, bit := range f.bits {
		if o&one != 0 {
			set.blocks[bit/blockBits].valid |= 1 << (bit % blockBits)
		}
	}
	return f.ask(unsafe.Pointer(&set))
}

// ask makes one call of ethtool.
func (f *features) ask(command unsafe.Pointer) error {
	req := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: command}
	copy(req.name[:unix.IFNAMSIZ-1], f.name)
	// Sound: command points to a structure that is as long as its size field says, or longer,
	// and which the kernel keeps no pointer to; Go's pointers in req keep it alive and in place.
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return fmt.Errorf("ethtool: %w", errno)
	}
	return nil
}
