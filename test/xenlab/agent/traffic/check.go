package traffic

import (
	"bytes"
	"encoding/binary"
)

// Piece is a run of bytes in a flow that are not those of its seed.
type Piece struct {
	At    uint64 `json:"at"` // byte of the flow
	Bytes uint64 `json:"bytes"`
	// From is where these bytes belong in the same flow, -1 if nowhere.
	From int64 `json:"from"`
}

// maxPieces is how many pieces are told about.
const maxPieces = 16

// checker compares a flow with its seed's stream.
type checker struct {
	seed  uint64
	want  *byteStream
	buf   [chunk]byte
	at    uint64
	wrong []Piece
}

func newChecker(seed uint64) *checker { return &checker{seed: seed, want: newBytes(seed)} }

// add looks at the next bytes: a whole chunk, or the last ones.
func (c *checker) add(b []byte) {
	want := c.buf[:len(b)]
	c.want.fill(want)
	if !bytes.Equal(b, want) {
		for i := 0; i < len(b); i += 8 {
			end := min(i+8, len(b))
			if !bytes.Equal(b[i:end], want[i:end]) {
				c.note(c.at+uint64(i), b[i:end])
			}
		}
	}
	c.at += uint64(len(b))
}

// note tells about 8 wrong bytes, or the flow's last ones.
func (c *checker) note(at uint64, b []byte) {
	from := int64(-1)
	if len(b) == 8 {
		if n, ok := offsetOf(c.seed, binary.LittleEndian.Uint64(b), 1<<40); ok {
			from = int64(n)
		}
	}
	if n := len(c.wrong); n > 0 {
		p := &c.wrong[n-1]
		follows := p.From >= 0 && from == p.From+int64(p.Bytes) || p.From < 0 && from < 0
		if p.At+p.Bytes == at && follows {
			p.Bytes += uint64(len(b))
			return
		}
	}
	if len(c.wrong) < maxPieces {
		c.wrong = append(c.wrong, Piece{At: at, Bytes: uint64(len(b)), From: from})
	}
}
