package tap

import (
	"errors"
	"testing"
)

func TestVirtioHeaderHasTheKernelsLayout(t *testing.T) {
	h := VirtioHeader{
		Flags: VirtioNeedsCsum, GSOType: GSOTCPv6, HdrLen: 0x0201, GSOSize: 0x0403,
		CsumStart: 0x0605, CsumOffset: 0x0807, NumBuffers: 0x0a09,
	}
	var got [VirtioHeaderSize]byte
	if !h.Put(got[:]) {
		t.Fatal("no room in twelve bytes")
	}
	if want := [VirtioHeaderSize]byte{1, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}; got != want {
		t.Errorf("got % x, want % x", got, want)
	}
	if back, err := ParseVirtioHeader(got[:]); err != nil || back != h {
		t.Errorf("read back %+v, %v; want %+v", back, err, h)
	}
}

func TestVirtioHeaderNeedsTwelveBytes(t *testing.T) {
	b := make([]byte, VirtioHeaderSize-1)
	if _, err := ParseVirtioHeader(b); !errors.Is(err, ErrVirtioHeader) {
		t.Errorf("parsed from eleven bytes: %v", err)
	}
	if (VirtioHeader{}).Put(b) {
		t.Error("put into eleven bytes")
	}
}

// Whatever stands in the virtio header of a frame from the TAP, carrying out the
// plan made of it must succeed and stay within the frame.
func FuzzVirtioHeader(f *testing.F) {
	for _, k := range knownFrames {
		b := k.blank(f)
		h := VirtioHeader{Flags: VirtioNeedsCsum, CsumStart: uint16(k.l4At()), CsumOffset: uint16(k.fieldAt() - k.l4At())}
		f.Add(putHeader(h), b, uint8(0xff))
		h.GSOType, h.GSOSize = GSOTCPv4, 20
		f.Add(putHeader(h), b, uint8(0xff))
		h.GSOType |= GSOECN
		f.Add(putHeader(h), b, uint8(0))
	}
	f.Fuzz(func(t *testing.T, hdr, b []byte, features uint8) {
		v, err := ParseVirtioHeader(hdr)
		if err != nil {
			if len(hdr) >= VirtioHeaderSize {
				t.Fatal(err)
			}
			return
		}
		if got := putHeader(v); string(got) != string(hdr[:VirtioHeaderSize]) {
			t.Fatalf("% x came back as % x", hdr, got)
		}
		h, _ := ParseHeaders(b, len(b))
		can := TxFeatures{features&1 != 0, features&2 != 0, features&4 != 0, features&8 != 0}
		p, err := CheckTx(v, h, len(b), can)
		if err != nil {
			if !v.Pending() || p != (TxPlan{}) {
				t.Fatalf("%v for %+v: %+v", err, v, p)
			}
			return
		}
		checkPlan(t, p, v, h, b)
	})
}

func putHeader(h VirtioHeader) []byte {
	b := make([]byte, VirtioHeaderSize)
	h.Put(b)
	return b
}
