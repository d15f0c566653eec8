// Package pcapng writes captures in the format of Wireshark and tcpdump
// (draft-ietf-opsawg-pcapng), in little endian and with nanoseconds. It also counts the
// packets of such a stream, and splits it into files.
package pcapng

import (
	"encoding/binary"
	"io"
	"net"
	"time"
)

// Block types.
const (
	blockSection    = 0x0a0d0d0a // section header block
	blockInterface  = 1          // interface description block
	blockStatistics = 5          // interface statistics block
	blockPacket     = 6          // enhanced packet block
)

// byteOrderMagic tells the byte order of a section.
const byteOrderMagic = 0x1a2b3c4d

// Options. The first three have the same meaning in every block.
const (
	optEnd         = 0
	optComment     = 1
	optHardware    = 2 // of a section, as the two below
	optOS          = 3
	optApplication = 4

	optName        = 2 // of an interface, as those below
	optDescription = 3
	optMAC         = 6
	optResolution  = 9
	optFilter      = 11

	optFlags     = 2 // of a packet, as those below
	optDropCount = 4
	optQueue     = 6

	optStart     = 2 // of statistics, as those below
	optEndTime   = 3
	optReceived  = 4
	optDropped   = 5
	optAccepted  = 6
	optDelivered = 8
)

// maxOption is the longest value of an option in bytes.
const maxOption = 0xffff

// linkEthernet is LINKTYPE_ETHERNET.
const linkEthernet = 1

// Writer writes one section. Each method writes whole blocks with one call of the io.Writer. A
// Writer allocates only until its buffer is as large as the largest block.
type Writer struct {
	w          io.Writer
	buf        []byte
	interfaces int
}

// Section describes the whole stream.
type Section struct {
	Hardware    string
	OS          string
	Application string
	Comment     string
}

// Interface is an Ethernet interface from which packets come.
type Interface struct {
	Name        string
	Description string
	MAC         net.HardwareAddr // nil: not known
	Filter      string           // in words; "": none
	// SnapLen is the number of bytes to which packets are cut; 0: they are not. Libpcap
	// demands the same of all interfaces.
	SnapLen int
}

// Packet is one packet.
type Packet struct {
	Interface int
	Time      time.Time
	Length    int // of the whole packet
	Data      []byte
	Inbound   bool // else outbound
	Queue     int
	Missed    uint64 // packets of the interface that are missing before this one
	Comment   string
}

// Statistics are those of an interface at one moment.
type Statistics struct {
	Interface int
	Time      time.Time
	Start     time.Time
	End       time.Time // zero: it goes on
	Received  uint64
	Dropped   uint64 // for want of room, of those received
	Accepted  uint64 // by the filter
	Delivered uint64
	Comment   string
}

// NewWriter begins a section on w.
func NewWriter(w io.Writer, s Section) (*Writer, error) {
	p := &Writer{w: w}
	p.begin(blockSection)
	p.u32(byteOrderMagic)
	p.u16(1) // version 1.0
	p.u16(0)
	p.u64(^uint64(0)) // length of the section: not known
	p.text(optComment, s.Comment)
	p.text(optHardware, s.Hardware)
	p.text(optOS, s.OS)
	p.text(optApplication, s.Application)
	return p, p.end()
}

// AddInterface describes an interface and returns its number.
func (p *Writer) AddInterface(i Interface) (number int, err error) {
	p.begin(blockInterface)
	p.u16(linkEthernet)
	p.u16(0)
	p.u32(uint32(i.SnapLen))
	p.text(optName, i.Name)
	p.text(optDescription, i.Description)
	if len(i.MAC) == 6 {
		p.option(optMAC, i.MAC)
	}
	p.option(optResolution, []byte{9})
	if i.Filter != "" {
		p.option(optFilter, append([]byte{0}, i.Filter...)) // 0: a text
	}
	p.interfaces++
	return p.interfaces - 1, p.end()
}

// Packet writes one packet.
func (p *Writer) Packet(k *Packet) error {
	p.begin(blockPacket)
	p.u32(uint32(k.Interface))
	p.time(k.Time)
	p.u32(uint32(len(k.Data)))
	p.u32(uint32(k.Length))
	p.bytes(k.Data)
	p.text(optComment, k.Comment)
	flags := uint32(2)
	if k.Inbound {
		flags = 1
	}
	p.number32(optFlags, flags)
	if k.Missed != 0 {
		p.number64(optDropCount, k.Missed)
	}
	p.number32(optQueue, uint32(k.Queue))
	return p.end()
}

// Statistics writes the statistics of an interface.
func (p *Writer) Statistics(s *Statistics) error {
	p.begin(blockStatistics)
	p.u32(uint32(s.Interface))
	p.time(s.Time)
	p.text(optComment, s.Comment)
	p.moment(optStart, s.Start)
	if !s.End.IsZero() {
		p.moment(optEndTime, s.End)
	}
	p.number64(optReceived, s.Received)
	p.number64(optDropped, s.Dropped)
	p.number64(optAccepted, s.Accepted)
	p.number64(optDelivered, s.Delivered)
	return p.end()
}

// begin begins a block. Its length is filled in by end.
func (p *Writer) begin(kind uint32) {
	p.buf = p.buf[:0]
	p.u32(kind)
	p.u32(0)
}

// end ends a block with its options, and writes it.
func (p *Writer) end() error {
	p.u16(optEnd)
	p.u16(0)
	n := uint32(len(p.buf) + 4)
	p.u32(n)
	binary.LittleEndian.PutUint32(p.buf[4:], n)
	_, err := p.w.Write(p.buf)
	return err
}

func (p *Writer) u16(v uint16) { p.buf = binary.LittleEndian.AppendUint16(p.buf, v) }
func (p *Writer) u32(v uint32) { p.buf = binary.LittleEndian.AppendUint32(p.buf, v) }
func (p *Writer) u64(v uint64) { p.buf = binary.LittleEndian.AppendUint64(p.buf, v) }

// time is a timestamp: nanoseconds since 1970, the upper half first.
func (p *Writer) time(t time.Time) {
	n := uint64(t.UnixNano())
	p.u32(uint32(n >> 32))
	p.u32(uint32(n))
}

// bytes is b, padded to four bytes.
func (p *Writer) bytes(b []byte) {
	p.buf = append(p.buf, b...)
	for len(p.buf)%4 != 0 {
		p.buf = append(p.buf, 0)
	}
}

func (p *Writer) option(code uint16, v []byte) {
	p.u16(code)
	p.u16(uint16(len(v)))
	p.bytes(v)
}

// text is an option that is left out when it is empty, and cut when it is too long.
func (p *Writer) text(code uint16, s string) {
	if s == "" {
		return
	}
	s = s[:min(len(s), maxOption)]
	p.u16(code)
	p.u16(uint16(len(s)))
	p.buf = append(p.buf, s...)
	p.bytes(nil)
}

func (p *Writer) number32(code uint16, v uint32) {
	p.u16(code)
	p.u16(4)
	p.u32(v)
}

func (p *Writer) number64(code uint16, v uint64) {
	p.u16(code)
	p.u16(8)
	p.u64(v)
}

func (p *Writer) moment(code uint16, t time.Time) {
	p.u16(code)
	p.u16(8)
	p.time(t)
}
