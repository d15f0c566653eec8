package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// naiveSum is RFC 1071 word by word.
func naiveSum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
		s = s>>16 + s&0xffff
	}
	if len(b)&1 == 1 {
		s += uint32(b[len(b)-1]) << 8
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestChecksumEqualsTheDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	all := randomBytes(r, 70000)
	for i := range all[:300] {
		all[i] = 0xff // long carries
	}
	lengths := []int{1500, 4096, 4097, 65535, 65539, 69990}
	for n := range 300 {
		lengths = append(lengths, n)
	}
	for _, n := range lengths {
		for at := range 9 { // every alignment
			b := all[at : at+n]
			if got, want := Checksum(b, 0), naiveSum(b); got != want {
				t.Fatalf("%d bytes at %d: %#04x, want %#04x", n, at, got, want)
			}
		}
	}
}

func TestChecksumContinuesFromAnInitialSum(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		b := randomBytes(r, 2+r.IntN(3000))
		at := r.IntN(len(b)/2) * 2
		if got, want := Checksum(b[at:], uint32(naiveSum(b[:at]))), naiveSum(b); got != want {
			t.Fatalf("%d bytes cut at %d: %#04x, want %#04x", len(b), at, got, want)
		}
	}
	if got := Checksum(nil, 0xffffffff); got != 0xffff {
		t.Errorf("the largest initial sum folds to %#04x, want 0xffff", got)
	}
}

func TestPseudoHeaderSumEqualsTheWrittenOutPseudoHeader(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 200 {
		src4, dst4 := randomBytes(r, 4), randomBytes(r, 4)
		n := r.IntN(65536)
		b := append(append([]byte{}, src4...), dst4...)
		b = append(b, 0, protoUDP, byte(n>>8), byte(n))
		if got, want := PseudoHeaderSum(src4, dst4, protoUDP, n), naiveSum(b); got != want {
			t.Fatalf("IPv4: %#04x, want %#04x", got, want)
		}
		src6, dst6 := randomBytes(r, 16), randomBytes(r, 16)
		n = r.IntN(1 << 20) // the pseudo-header's length has 32 bits
		b = append(append([]byte{}, src6...), dst6...)
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = append(b, 0, 0, 0, protoTCP)
		if got, want := PseudoHeaderSum(src6, dst6, protoTCP, n), naiveSum(b); got != want {
			t.Fatalf("IPv6: %#04x, want %#04x", got, want)
		}
	}
}

func TestFinishChecksumMakesTheDataSumUp(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for range 300 {
		b := randomBytes(r, 20+r.IntN(3000))
		start := r.IntN(len(b) - 4)
		offset := r.IntN((len(b)-start-2)/2+1) / 2 * 2
		field := start + offset
		pseudo := uint16(r.Uint32())
		binary.BigEndian.PutUint16(b[field:], pseudo)
		if err := FinishChecksum(b, start, offset); err != nil {
			t.Fatalf("%d bytes, %d+%d: %v", len(b), start, offset, err)
		}
		if got := Checksum(b[start:], uint32(pseudo)); got != 0xffff {
			t.Fatalf("%d bytes, %d+%d: the receiver gets %#04x, want 0xffff", len(b), start, offset, got)
		}
	}
}

// A UDP checksum of zero says that there is none, so a sum of zero is sent as its
// equal.
func TestFinishChecksumNeverWritesZero(t *testing.T) {
	b := []byte{0xff, 0xff, 0, 0}
	if err := FinishChecksum(b, 0, 2); err != nil || b[2] != 0xff || b[3] != 0xff {
		t.Errorf("checksum % x, %v; want ff ff", b[2:], err)
	}
}

func TestFinishChecksumRefusesAFieldOutsideOfTheFrame(t *testing.T) {
	const n = 60
	bad := [][2]int{
		{-1, 4}, {0, -1}, {0, 59}, {58, 1}, {59, 0}, {60, 0}, {61, 0}, {61, -3},
		{1 << 62, 1 << 62}, {0, int(^uint(0) >> 1)}, {int(^uint(0) >> 1), 1},
	}
	for _, c := range bad {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			b := make([]byte, n)
			if err := FinishChecksum(b, c[0], c[1]); !errors.Is(err, ErrChecksumRange) {
				t.Errorf("FinishChecksum: %v", err)
			}
			if !bytes.Equal(b, make([]byte, n)) {
				t.Error("the frame was changed")
			}
		})
	}
}

func BenchmarkChecksum(b *testing.B) {
	for _, n := range []int{20, 64, 256, 1500, 65535} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			buf := randomBytes(rand.New(rand.NewPCG(1, 1)), n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				Checksum(buf, 0)
			}
		})
	}
}
