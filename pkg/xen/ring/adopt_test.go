package ring

import (
	"errors"
	"testing"
)

// left is a ring at work, as a process leaves it: 10 requests put, 8 pushed, 3
// responses taken of 5.
func left(t *testing.T) (*Back[slot12], []byte, *FrontState) {
	t.Helper()
	page := make([]byte, PageSize)
	state := new(FrontState)
	f, err := NewFront[slot12](page, state)
	if err != nil {
		t.Fatal(err)
	}
	b, err := AttachBack[slot12](page)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		f.Put(&slot12{byte(i)})
		if i == 7 {
			f.Push()
		}
	}
	for i := range 5 {
		b.Put(&slot12{0xf0 + byte(i)})
	}
	b.Push()
	f.Consume(3)
	return b, page, state
}

func TestNextProcessGoesOnWithTheRing(t *testing.T) {
	_, page, state := left(t)
	f, err := AdoptFront[slot12](page, state)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.Responses(); n != 2 || err != nil || f.Response(0) != (slot12{0xf3}) {
		t.Errorf("%d responses, %v, the first is %v", n, err, f.Response(0))
	}
	if f.Unpublished() != 2 || f.Free() != 256-7 {
		t.Errorf("%d unpublished, %d free", f.Unpublished(), f.Free())
	}
	if err := f.Rewind(9); err != nil || f.Unpublished() != 1 {
		t.Errorf("rewind to 9: %v, %d unpublished", err, f.Unpublished())
	}
	for _, to := range []uint32{7, 10} {
		if err := f.Rewind(to); !errors.Is(err, ErrState) {
			t.Errorf("rewind to %d: %v", to, err)
		}
	}
}

// Push stores what it published privately first, so that a process can die between
// the two stores, and never the other way round.
func TestRingWhoseWordsContradictEachOtherIsNotAdopted(t *testing.T) {
	for name, spoil := range map[string]func(f *Front[slot12], s *FrontState){
		"more put than slots":           func(_ *Front[slot12], s *FrontState) { s.ReqProd += 256 },
		"more published than put":       func(_ *Front[slot12], s *FrontState) { s.Published = s.ReqProd + 1 },
		"responses beyond the requests": func(_ *Front[slot12], s *FrontState) { s.RspCons = s.Published + 1 },
		"req_prod ahead":                func(f *Front[slot12], _ *FrontState) { *f.reqProd() = 9 },
		"req_prod behind the responses": func(f *Front[slot12], _ *FrontState) { *f.reqProd() = 2 },
	} {
		_, page, state := left(t)
		f, err := AdoptFront[slot12](page, state)
		if err != nil {
			t.Fatal(err)
		}
		spoil(f, state)
		if _, err := AdoptFront[slot12](page, state); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, page, state := left(t)
	state.Published = 10 // and died before the store to req_prod
	if _, err := AdoptFront[slot12](page, state); err != nil {
		t.Error(err)
	}
}
