package pcapng

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Splitter writes a stream of a Writer into several files. Each file begins with the
// description of the stream and its interfaces, so that it can be read by itself. A file ends
// before a packet that would make it larger than Size, or that comes later than Every after
// its beginning. A packet is never cut. Every file but the last has a packet.
type Splitter struct {
	Size  int64         // bytes; 0: any
	Every time.Duration // 0: no end
	// Next opens the next file, and the first one, too.
	Next func() (io.WriteCloser, error)

	pending []byte // of a block that is not whole
	head    []byte // section and interfaces
	file    io.WriteCloser
	out     *bufio.Writer
	written int64 // bytes in file
	packets int   // in file
	began   time.Time
}

// Open opens the first file, as the first Write would.
func (s *Splitter) Open() error {
	if s.file != nil {
		return nil
	}
	file, err := s.Next()
	if err != nil {
		return err
	}
	s.file, s.out = file, bufio.NewWriterSize(file, 64<<10)
	s.written, s.packets, s.began = 0, 0, time.Now()
	return s.put(s.head)
}

// Write takes the next piece of the stream. It fails with ErrFormat. When it returns, the file
// has every whole block.
func (s *Splitter) Write(b []byte) (int, error) {
	if err := s.Open(); err != nil {
		return 0, err
	}
	s.pending = append(s.pending, b...)
	rest := s.pending
	for len(rest) >= blockHeader {
		size := binary.LittleEndian.Uint32(rest[4:])
		if size < blockHeader+4 || size%4 != 0 || size > maxBlock {
			return 0, ErrFormat
		}
		if len(rest) < int(size) {
			break
		}
		if err := s.block(rest[:size]); err != nil {
			return 0, err
		}
		rest = rest[size:]
	}
	s.pending = s.pending[:copy(s.pending, rest)]
	if err := s.out.Flush(); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	return len(b), nil
}

// block writes one block, into the next file if the present one is full.
func (s *Splitter) block(b []byte) error {
	switch binary.LittleEndian.Uint32(b) {
	case blockSection, blockInterface:
		s.head = append(s.head, b...)
	case blockPacket:
		full := s.Size > 0 && s.written+int64(len(b)) > s.Size
		late := s.Every > 0 && time.Since(s.began) >= s.Every
		if s.packets > 0 && (full || late) {
			if err := errors.Join(s.Close(), s.Open()); err != nil {
				return err
			}
		}
		s.packets++
	}
	return s.put(b)
}

func (s *Splitter) put(b []byte) error {
	n, err := s.out.Write(b)
	if s.written += int64(n); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// Close ends the file. A block that is not whole is lost.
func (s *Splitter) Close() error {
	if s.file == nil {
		return nil
	}
	err := errors.Join(s.out.Flush(), s.file.Close())
	s.file = nil
	return err
}
