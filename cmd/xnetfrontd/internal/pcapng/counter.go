package pcapng

import (
	"encoding/binary"
	"errors"
)

// ErrFormat says that a stream is not one of a Writer.
var ErrFormat = errors.New("not a pcapng stream as the daemon writes it")

const (
	blockHeader = 8
	// maxBlock bounds a block: the largest Ethernet frame and options, with room.
	maxBlock = 1 << 20
)

// Counter counts the packets in a stream of a Writer. The stream can be written to it in
// pieces of any size. The zero value is ready to use.
type Counter struct {
	Packets uint64
	Ended   bool   // the last statistics said that the capture had ended
	Why     string // their comment

	dropped map[uint32]uint64 // by interface, as its last statistics say
	block   []byte            // the beginning of a block: its header, or all of it where it matters
	skip    int               // bytes of a block to come that do not matter
	want    int               // bytes of the block that do
}

// Dropped is the number of packets that found no room.
func (c *Counter) Dropped() (n uint64) {
	for _, d := range c.dropped {
		n += d
	}
	return n
}

// Whole tells whether the stream so far ends with a whole block.
func (c *Counter) Whole() bool { return len(c.block) == 0 && c.skip == 0 }

// Write takes the next piece of the stream. It fails with ErrFormat.
func (c *Counter) Write(b []byte) (int, error) {
	all := len(b)
	for len(b) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(b))
			c.skip -= n
			b = b[n:]
			continue
		}
		need := max(blockHeader, c.want) - len(c.block)
		n := min(need, len(b))
		c.block = append(c.block, b[:n]...)
		b = b[n:]
		if n < need {
			break
		}
		if err := c.take(); err != nil {
			return all - len(b), err
		}
	}
	return all, nil
}

// take reads a block's header, and the whole of a block that matters.
func (c *Counter) take() error {
	kind, size := binary.LittleEndian.Uint32(c.block), binary.LittleEndian.Uint32(c.block[4:])
	if size < blockHeader+4 || size%4 != 0 || size > maxBlock {
		return ErrFormat
	}
	switch {
	case kind == blockStatistics && c.want == 0:
		c.want = int(size)
		return nil
	case kind == blockStatistics:
		if err := c.statistics(c.block[blockHeader : size-4]); err != nil {
			return err
		}
	case kind == blockPacket:
		c.Packets++
		c.skip = int(size) - blockHeader
	case kind == blockSection, kind == blockInterface:
		c.skip = int(size) - blockHeader
	default:
		return ErrFormat
	}
	c.block, c.want = c.block[:0], 0
	return nil
}

// statistics reads the body of a statistics block.
func (c *Counter) statistics(b []byte) error {
	if len(b) < 12 {
		return ErrFormat
	}
	number := binary.LittleEndian.Uint32(b)
	c.Ended, c.Why = false, ""
	for b = b[12:]; len(b) >= 4; {
		code, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		padded := 4 + (n+3)&^3
		if padded > len(b) {
			return ErrFormat
		}
		v := b[4 : 4+n]
		switch {
		case code == optEnd:
			return nil
		case code == optComment:
			c.Why = string(v)
		case code == optEndTime:
			c.Ended = true
		case code == optDropped && n == 8:
			if c.dropped == nil {
				c.dropped = make(map[uint32]uint64)
			}
			c.dropped[number] = binary.LittleEndian.Uint64(v)
		}
		b = b[padded:]
	}
	return nil
}
