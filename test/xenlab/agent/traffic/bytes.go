package traffic

import (
	"encoding/binary"
	"math/rand/v2"
)

// newBytes returns the endless stream of bytes that belongs to a seed. Nothing in it
// repeats, so that a piece in the wrong place changes the hash.
func newBytes(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}
