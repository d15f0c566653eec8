package traffic

import "encoding/binary"

// byteStream is the endless stream of bytes that belongs to a seed. Nothing in it
// repeats, so that a piece in the wrong place changes the hash. It is SplitMix64,
// which costs an emulated CPU a fraction of what a cipher does.
type byteStream struct{ state uint64 }

func newBytes(seed uint64) *byteStream {
	return &byteStream{seed * 0xd1342543de82ef95} // far from the next seed's
}

// fill writes the next len(b) bytes, a multiple of 8, or the last ones there will be.
func (s *byteStream) fill(b []byte) {
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, s.next())
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		binary.LittleEndian.PutUint64(last[:], s.next())
		copy(b, last[:])
	}
}

func (s *byteStream) next() uint64 {
	s.state += 0x9e3779b97f4a7c15
	z := s.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
