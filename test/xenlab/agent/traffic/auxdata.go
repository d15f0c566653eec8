package traffic

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// auxdata is what the kernel says about a captured frame (PACKET_AUXDATA, packet(7)).
type auxdata struct {
	unfinished bool // a device has still to finish the checksum
	stripped   bool // a VLAN tag was taken out of the frame
}

// struct tpacket_auxdata and its status bits, from linux/if_packet.h.
const (
	auxdataSize        = 20
	statusCsumNotReady = 1 << 3
	statusVLANValid    = 1 << 4
)

// parseAuxdata finds the auxdata among a frame's control messages.
func parseAuxdata(oob []byte) auxdata {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return auxdata{}
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= auxdataSize {
			status := binary.NativeEndian.Uint32(m.Data)
			return auxdata{unfinished: status&statusCsumNotReady != 0, stripped: status&statusVLANValid != 0}
		}
	}
	return auxdata{}
}
