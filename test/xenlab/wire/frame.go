package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

// A frame, big-endian, before it is escaped:
//
//	 0  4  magic
//	 4  1  kind
//	 5  1  zero
//	 6  2  length of the payload
//	 8  8  session
//	16  4  number among the data frames of this session and direction, from 0
//	20  4  CRC-32C of the payload
//	24  4  CRC-32C of the 24 bytes above
//
// The header has its own checksum because a reader must not wait for the payload of
// what only looks like one.
const (
	headerSize = 28
	maxPayload = 4096
)

var magic = [4]byte{0x16, 'X', 'L', 0xe7}

// Kinds of frames.
const (
	kindHello   = 1 // client: begin this session
	kindWelcome = 2 // server: it is begun
	kindData    = 3
)

type frame struct {
	kind    byte
	session uint64
	number  uint32
	payload []byte // valid until the next read
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// frameWriter writes frames, for any goroutine. Each is one Write, so that a terminal
// does not put another process's output into its middle.
type frameWriter struct {
	mu   sync.Mutex
	to   io.Writer
	buf  [headerSize + maxPayload]byte
	line []byte // buf as it goes over the line
}

func (w *frameWriter) write(f frame) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.buf[:headerSize]
	copy(h, magic[:])
	h[4], h[5] = f.kind, 0
	binary.BigEndian.PutUint16(h[6:], uint16(len(f.payload)))
	binary.BigEndian.PutUint64(h[8:], f.session)
	binary.BigEndian.PutUint32(h[16:], f.number)
	binary.BigEndian.PutUint32(h[20:], crc32.Checksum(f.payload, castagnoli()))
	binary.BigEndian.PutUint32(h[24:], crc32.Checksum(h[:24], castagnoli()))
	n := copy(w.buf[headerSize:], f.payload)
	w.line = appendEscaped(w.line[:0], w.buf[:headerSize+n])
	_, err := w.to.Write(w.line)
	return err
}

// frameReader finds the frames in what it reads. What is between them goes to noise.
type frameReader struct {
	from  *bufio.Reader
	noise io.Writer
	last  int // size of the frame returned last, not yet discarded
}

func newFrameReader(from io.Reader, noise io.Writer) *frameReader {
	return &frameReader{from: bufio.NewReaderSize(&unescaper{from: from}, 4*(headerSize+maxPayload)), noise: noise}
}

// read returns the next frame, whose payload is valid until the next call.
func (r *frameReader) read() (frame, error) {
	if _, err := r.from.Discard(r.last); err != nil {
		return frame{}, err
	}
	r.last = 0
	for {
		f, err := r.peek()
		if err == nil {
			r.last = headerSize + len(f.payload)
			return f, nil
		}
		if !errors.Is(err, errNoFrame) {
			return frame{}, err
		}
		if err := r.skip(); err != nil {
			return frame{}, err
		}
	}
}

var errNoFrame = errors.New("no frame here")

// peek looks at the frame that begins with the next byte.
func (r *frameReader) peek() (frame, error) {
	for i := range magic { // byte by byte: a line may be silent behind a short text
		b, err := r.from.Peek(i + 1)
		if err != nil {
			return frame{}, err
		}
		if b[i] != magic[i] {
			return frame{}, errNoFrame
		}
	}
	h, err := r.from.Peek(headerSize)
	if err != nil {
		return frame{}, err
	}
	size := int(binary.BigEndian.Uint16(h[6:]))
	if binary.BigEndian.Uint32(h[24:]) != crc32.Checksum(h[:24], castagnoli()) || size > maxPayload {
		return frame{}, errNoFrame
	}
	b, err := r.from.Peek(headerSize + size)
	if err != nil {
		return frame{}, err
	}
	if binary.BigEndian.Uint32(b[20:]) != crc32.Checksum(b[headerSize:], castagnoli()) {
		return frame{}, errNoFrame
	}
	return frame{kind: b[4], session: binary.BigEndian.Uint64(b[8:]), number: binary.BigEndian.Uint32(b[16:]), payload: b[headerSize:]}, nil
}

// skip hands one byte, and what follows up to where a frame could begin, to noise.
func (r *frameReader) skip() error {
	b, err := r.from.Peek(r.from.Buffered())
	if err != nil {
		return err
	}
	n := 1
	for n < len(b) && b[n] != magic[0] {
		n++
	}
	if _, err := r.noise.Write(b[:n]); err != nil {
		return fmt.Errorf("hand on what was between frames: %w", err)
	}
	_, err = r.from.Discard(n)
	return err
}
