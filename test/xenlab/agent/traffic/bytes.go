package traffic

import "encoding/binary"

// byteStream is the endless stream of bytes that belongs to a seed. Nothing in it
// repeats, so that a piece in the wrong place changes the hash. It is SplitMix64,
// which costs an emulated CPU a fraction of what a cipher does.
type byteStream struct {
	state uint64
	rest  []byte // of the last 8 bytes
}

func newBytes(seed uint64) *byteStream {
	return &byteStream{state: firstState(seed)}
}

// firstState is far from the next seed's.
func firstState(seed uint64) uint64 { return seed * 0xd1342543de82ef95 }

// fill writes the next len(b) bytes.
func (s *byteStream) fill(b []byte) {
	n := copy(b, s.rest)
	b, s.rest = b[n:], s.rest[n:]
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, s.next())
		b = b[8:]
	}
	if len(b) > 0 {
		s.rest = binary.LittleEndian.AppendUint64(nil, s.next())
		s.rest = s.rest[copy(b, s.rest):]
	}
}

func (s *byteStream) next() uint64 {
	s.state += 0x9e3779b97f4a7c15
	z := s.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// offsetOf returns the byte offset in a seed's stream of the 8 bytes that are v, and
// false if it is not within the first limit bytes. SplitMix64 can be run backwards, so what
// is in a wrong place tells where it belongs.
func offsetOf(seed, v, limit uint64) (uint64, bool) {
	z := unshift(v, 31) * 0x319642b2d24d8ec3
	z = unshift(z, 27) * 0x96de1b173f119089
	z = unshift(z, 30)
	const gamma = 0xf1de83e19937733d // times 0x9e3779b97f4a7c15 is 1
	n := (z - firstState(seed)) * gamma
	return (n - 1) * 8, n > 0 && n-1 < limit/8
}

// unshift undoes z ^ z>>n.
func unshift(v uint64, n int) uint64 {
	z := v
	for range 64 / n {
		z = v ^ z>>n
	}
	return z
}
